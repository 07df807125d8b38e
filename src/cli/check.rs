//! `check`: whether a saved model will load.

use super::error::Error;
use super::options::OutputArgs;
use super::output::{Output, output};
use super::target::ForArgs;
use crate::checkpoint::ReadError;
use crate::demo;
use crate::export::{Finding, LoadCheck, Severity};
use crate::plan::target::Loader;
use crate::text::names;
use clap::Args;
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope quantize my-model -o for-vllm --for vllm\n  \
    quantscope check for-vllm --for vllm")]
pub struct Check {
    /// A quantized model: a directory or a file, written by quantscope or not
    model: PathBuf,
    #[command(flatten)]
    loaders: ForArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Check {
    pub fn run(self) -> Result<(), Error> {
        let found = open(&self.model, &self.loaders.loaders);
        let (checked, notes) = match found {
            Ok((checked, notes)) => (checked, notes),
            // A model that does not open will not load: the reason is the finding.
            Err(error) => (unopened(&error, &self.loaders.loaders), Vec::new()),
        };
        for note in notes {
            let model = self.model.display().to_string();
            eprintln!("warning: {}: {}", names::visible(&model), names::visible(&note));
        }
        let mut out = output();
        if self.output.json {
            crate::text::json::write(&mut out, &Document::of(&self.model, &checked))?;
            writeln!(out)?;
        } else {
            print(&mut out, &self.model, &checked)?;
        }
        out.flush()?;
        if checked.loads() {
            Ok(())
        } else {
            Err(Error::WontLoad { path: self.model, conclusion: checked.conclusion() })
        }
    }
}

/// The findings about the model at a path, and the notes of opening it.
fn open(model: &Path, loaders: &[Loader]) -> Result<(LoadCheck, Vec<String>), ReadError> {
    let checkpoint = demo::open_model(model)?;
    Ok((LoadCheck::new(&checkpoint, loaders)?, checkpoint.notes().to_vec()))
}

fn unopened(error: &ReadError, loaders: &[Loader]) -> LoadCheck {
    LoadCheck {
        format: "unknown".to_owned(),
        loaders: loaders.to_vec(),
        tensors: 0,
        quantized: 0,
        findings: vec![Finding { severity: Severity::Fails, sentence: error.to_string() }],
    }
}

fn print(out: &mut Output, model: &Path, checked: &LoadCheck) -> io::Result<()> {
    let LoadCheck { format, tensors, quantized, .. } = checked;
    let path = model.to_string_lossy();
    writeln!(
        out,
        "{}: {}, {quantized} of {tensors} tensors quantized",
        names::visible(&path),
        names::visible(format)
    )?;
    for Finding { severity, sentence } in &checked.findings {
        writeln!(out, "{}: {}", severity.name(), names::visible(sentence))?;
    }
    if checked.loads() {
        writeln!(out, "{}", checked.conclusion())?;
    }
    // If it does not load, the error that ends the program says so.
    Ok(())
}

/// The conclusion with the findings.
#[derive(Serialize)]
struct Document<'a> {
    model: Cow<'a, str>,
    format: &'a str,
    /// The loaders that were asked about; empty for all.
    loaders: Vec<&'static str>,
    tensors: usize,
    quantized: usize,
    #[serde(flatten)]
    checked: Checked<'a>,
}

/// The conclusion without the findings.
#[derive(Serialize)]
pub(super) struct Checked<'a> {
    loads: bool,
    findings: Vec<DocumentedFinding<'a>>,
}

#[derive(Serialize)]
struct DocumentedFinding<'a> {
    severity: &'static str,
    sentence: &'a str,
}

impl<'a> Checked<'a> {
    pub(super) fn of(checked: &'a LoadCheck) -> Checked<'a> {
        let findings = checked.findings.iter().map(|finding| DocumentedFinding {
            severity: finding.severity.name(),
            sentence: &finding.sentence,
        });
        Checked { loads: checked.loads(), findings: findings.collect() }
    }
}

impl<'a> Document<'a> {
    fn of(model: &'a Path, checked: &'a LoadCheck) -> Document<'a> {
        Document {
            model: model.to_string_lossy(),
            format: &checked.format,
            loaders: checked.loaders.iter().map(|loader| loader.name()).collect(),
            tensors: checked.tensors,
            quantized: checked.quantized,
            checked: Checked::of(checked),
        }
    }
}
