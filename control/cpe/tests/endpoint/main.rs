//! The program itself, as its user sees it: ends in namespaces of their own, signals, errors, and
//! nothing left behind.

mod configured;
mod dtcp;
mod support;
