//! Python: `pip download --only-binary=:all:`.
//!
//! pip reads no `pip.conf` of the app's. But `--only-binary` does not hold for paths, `-e`, archives and repositories that
//! `requirements.txt` (or what a fetched package needs) names: pip would run their `setup.py`, to ask them what they need.
//! So pip runs below `pip_guard.py`, which refuses to start programs.

use super::{App, Fetcher};

pub(super) const FETCHER: Fetcher = Fetcher {
    file: "requirements.txt",
    tool: "pip3",
    tool_from: "Debian's package `python3-pip`",
    shown: "pip download --only-binary=:all: -r /build/requirements.txt",
    script: r#"exec python3 -I -c "$GUARD" download --only-binary=:all: --dest /sources/pip -r /build/requirements.txt"#,
    app: App::Read,
    env: &[
        ("GUARD", include_str!("pip_guard.py")),
        ("PIP_CONFIG_FILE", "/dev/null"),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ("PIP_NO_CACHE_DIR", "1"),
        ("PIP_NO_INPUT", "1"),
        ("PIP_PROGRESS_BAR", "off"),
        ("PIP_RETRIES", "1"),
    ],
    certificates: &["PIP_CERT"],
    build_env: &[
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ("PIP_FIND_LINKS", "/sources/pip"),
        ("PIP_NO_INDEX", "1"),
    ],
};
