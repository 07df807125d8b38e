//! The command line: exit codes, output, JSON documents and reports.

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod experts;
mod gguf;
mod json_documents;
mod options;
mod report;
