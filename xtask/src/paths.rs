//! Where things are: the clone, and the cache outside it that holds build output, tools and disk images.

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
