//! Control-plane state behind four operations, so that a laptop and a later cluster share one code path.
