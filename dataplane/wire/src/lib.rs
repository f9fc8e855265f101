//! Header views, in-place edits and checksums.
