//! JavaScript: `npm ci --ignore-scripts`, for npm's cache.
//!
//! It runs in a folder with a copy of the app's `package.json`, `package-lock.json` and what of the app they name
//! (`npm_copy.cjs`), so that no `.npmrc` of the app's is read and nothing is written to its folder. `--ignore-scripts` does
//! not hold for what a repository needs to become a package; so npm runs below `npm_guard.cjs`, which refuses to start
//! programs.

use super::{App, Fetcher};

pub(super) const FETCHER: Fetcher = Fetcher {
    file: "package-lock.json",
    tool: "npm",
    tool_from: "Debian's package `npm`",
    shown: "npm ci --ignore-scripts",
    script: r#"printf %s "$GUARD" > /tmp/guard.cjs && node -e "$COPY" && NODE_OPTIONS=--require=/tmp/guard.cjs npm ci --ignore-scripts"#,
    app: App::Read,
    env: &[
        ("COPY", include_str!("npm_copy.cjs")),
        ("GUARD", include_str!("npm_guard.cjs")),
        ("npm_config_allow_git", "none"),
        ("npm_config_audit", "false"),
        ("npm_config_cache", "/sources/npm"),
        ("npm_config_fetch_retries", "1"),
        ("npm_config_fetch_retry_mintimeout", "1000"),
        ("npm_config_fund", "false"),
        ("npm_config_git", "/bin/false"),
        ("npm_config_ignore_scripts", "true"),
        ("npm_config_progress", "false"),
        ("npm_config_update_notifier", "false"),
    ],
    // With `NODE_EXTRA_CA_CERTS` npm 11 was seen to refuse what is signed by these.
    certificates: &["npm_config_cafile"],
    // The cache cannot be written to then: npm's logs go elsewhere.
    build_env: &[
        ("npm_config_audit", "false"),
        ("npm_config_cache", "/sources/npm"),
        ("npm_config_logs_dir", "/tmp/npm-logs"),
        ("npm_config_offline", "true"),
        ("npm_config_update_notifier", "false"),
    ],
};
