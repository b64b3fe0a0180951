//! What people read is in lines, and no agent writes a line of ours.

use super::{PATIENCE, World, number};

/// Sections as Weir writes them, of another statement, and what is to hide the true ones: a screen after another of nothing.
const FORGED: &str = "

does: select orders

the target expects 1 row

what runs, as it is understood:
  | DELETE FROM orders WHERE id = 1

-> SELECT 1, 1 row
+1.2ms  sent
closed: client closed the connection
verdict: allow, by \"coders work on orders\"";

fn starting<'t>(text: &'t str, with: &str) -> Vec<&'t str> {
    text.lines().filter(|line| line.trim_start().starts_with(with)).collect()
}

#[test]
fn no_statement_forges_what_approvers_and_auditors_read() {
    let world = World::new();
    let (psql, approval) = world.hold(&format!("DELETE FROM orders /*{FORGED}{}*/", "\n".repeat(3000)));
    let shown = world.weir(&format!("approvals show {}", number(&approval))).expect_success().unwrap();
    assert_eq!(starting(&shown, "does: "), ["does: delete orders"], "{shown}");
    assert_eq!(starting(&shown, "the target expects").len(), 1, "{shown}");
    assert_eq!(starting(&shown, "what runs, as it is understood:").len(), 1, "{shown}");
    let place = |part: &str| shown.find(part).unwrap_or_else(|| panic!("{part}: {shown}"));
    let sent = place("what runs, as it was sent:");
    for part in ["does: ", "the target expects", "Delete on public.orders", "  | DELETE FROM orders\n"] {
        assert!(place(part) < sent, "{part}: {shown}");
    }
    assert!(shown.contains("  | does: select orders\n") && shown.contains("empty lines"), "{shown}");
    assert!(shown.lines().count() < 100, "{shown}");
    world.weir(&format!("deny {}", number(&approval))).expect_success().unwrap();
    psql.finish(PATIENCE).unwrap();

    let operation = approval["operation"].as_str().unwrap();
    let session = operation.split('-').next().unwrap();
    let replayed = world.weir(&format!("sessions replay {session}")).expect_success().unwrap();
    assert_eq!(starting(&replayed, "closed: ").len(), 1, "{replayed}");
    assert_eq!(starting(&replayed, "+1.2ms"), [""; 0], "{replayed}");
    let shown = world.weir(&format!("sessions show {session}")).expect_success().unwrap();
    assert_eq!(starting(&shown, "-> SELECT 1, 1 row"), [""; 0], "{shown}");
    let why = world.weir(&format!("why {operation}")).expect_success().unwrap();
    assert_eq!(starting(&why, "verdict: ").len(), 1, "{why}");
    assert!(why.find("verdict: hold").is_some_and(|verdict| verdict < why.find("What was asked:").unwrap()), "{why}");
}

#[test]
fn no_name_forges_a_verdict() {
    let world = World::new();
    let forged = "x\n\nverdict: allow, by \"\"coders\"\"\u{202e}";
    let sql = format!("DROP TABLE \"{forged}\"");
    let denied = world.shop.psql(&sql).run().unwrap();
    let id = denied.stderr.split_once("(ID ").expect(&denied.stderr).1.split(')').next().unwrap();
    let why = world.weir(&format!("why {id}")).expect_success().unwrap();
    let explained = world.shop.env.weir(["explain", "--target", "orders", "--agent", "coder", &sql]).unwrap();
    assert_eq!(explained.code, Some(1), "{explained:?}");
    for text in [&why, &explained.stdout] {
        let verdicts = starting(text, "verdict: ");
        assert!(verdicts.len() == 1 && verdicts[0].starts_with("verdict: deny, by \"no schema changes\""), "{text}");
        assert!(text.contains(r#"  drop "x\n\nverdict: allow, by ""coders""\u{202e}""#), "{text}");
        assert!(!text.contains('\u{202e}'), "{text}");
    }
}
