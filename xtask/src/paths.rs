//! Where things are: the clone, and the cache outside it that holds build output, tools and disk images.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::Result;

/// The clone's root.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// `$WEIR_CACHE`, else `$XDG_CACHE_HOME/weir`, else `~/.cache/weir`; created if missing.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = set("WEIR_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("weir")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/weir")))
        .ok_or("no place for the cache: set WEIR_CACHE to a directory")?;
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot create the cache {}: {e}", dir.display()))?;
    Ok(dir)
}

/// Cargo's output directory: what the caller set, else in the cache.
pub(crate) fn target() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        Some(dir) => std::path::absolute(PathBuf::from(dir)).map_err(|e| format!("CARGO_TARGET_DIR: {e}")),
        None => Ok(cache()?.join("target")),
    }
}

/// A directory of the cache that is made once for each list of what is in it. It has its name only when it is whole: what
/// was broken off is made again.
pub(crate) fn made_once(name: &str, list: impl Hash, make: impl FnOnce(&Path) -> Result) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    list.hash(&mut hasher);
    let ready = cache()?.join(format!("{name}-{:016x}", hasher.finish()));
    if ready.exists() {
        return Ok(ready);
    }
    let incoming = ready.with_extension("incoming");
    let made = |e: std::io::Error| format!("{}: {e}", incoming.display());
    if incoming.exists() {
        std::fs::remove_dir_all(&incoming).map_err(made)?;
    }
    std::fs::create_dir_all(&incoming).map_err(made)?;
    make(&incoming)?;
    std::fs::rename(&incoming, &ready).map_err(made)?;
    Ok(ready)
}
