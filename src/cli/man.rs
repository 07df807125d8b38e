//! `man`: prints the manual page, with every subcommand.

use super::Cli;
use super::error::Error;
use super::output::output;
use crate::guide::TOPICS;
use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::io::{self, Write};

/// Prints the page. `keys` has the keys of the screen under their headings.
pub(super) fn run(keys: &[(String, Vec<(String, String)>)]) -> Result<(), Error> {
    let mut page = Vec::new();
    render(&mut page, keys)?;
    let mut out = output();
    out.write_all(&page)?;
    Ok(out.flush()?)
}

fn render(page: &mut Vec<u8>, keys: &[(String, Vec<(String, String)>)]) -> io::Result<()> {
    let mut command = Cli::command().display_name("quantscope");
    command.build();
    let man = Man::new(command.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    for subcommand in command.get_subcommands() {
        let man = Man::new(subcommand.clone());
        let mut part = Vec::new();
        man.render_synopsis_section(&mut part)?;
        man.render_description_section(&mut part)?;
        man.render_options_section(&mut part)?;
        // A subcommand's sections become subsections of its section.
        let part = String::from_utf8_lossy(&part).replace(".SH ", ".SS ");
        writeln!(page, ".SH \"QUANTSCOPE {}\"", subcommand.get_name().to_uppercase())?;
        page.write_all(part.as_bytes())?;
    }
    write!(page, "{}", manual_section().to_roff())?;
    write!(page, "{}", keys_section(keys).to_roff())?;
    man.render_extra_section(page)?;
    man.render_version_section(page)
}

/// The topics that `quantscope help` shows.
fn manual_section() -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["MANUAL"]);
    section.text([roman("Shown by "), bold("quantscope help TOPIC"), roman(":")]);
    for topic in TOPICS {
        section.control("TP", []);
        section.text([bold(topic.name)]);
        section.text([roman(topic.summary())]);
    }
    section
}

/// The section with the keys of the screen.
fn keys_section(keys: &[(String, Vec<(String, String)>)]) -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["KEYS OF THE SCREEN"]);
    for (heading, bindings) in keys {
        section.control("SS", [heading.as_str()]);
        for (keys, help) in bindings {
            section.control("TP", []);
            section.text([bold(keys.as_str())]);
            section.text([roman(help.as_str())]);
        }
    }
    section
}
