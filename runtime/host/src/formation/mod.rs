//! One dispatcher per app owns the table of its dynos; everything else sends it messages.
