//! The dialogs of a save: what is written, the question before an output is replaced, the progress.

use crate::app::keys::Context;
use crate::app::pager::wrap;
use crate::app::scroll::Motion;
use crate::app::{Action as A, App, SaveChoice, SaveDialog, SaveKind, Saving, names};
use crate::ui::dialog_lines::{DialogLines, keys};
use crate::ui::theme::Theme;
use crate::ui::{header, layout, text, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Draws the save dialog. On a small screen the most important parts come first.
pub(super) fn save(
    buf: &mut Buffer,
    screen: Rect,
    app: &App,
    dialog: &SaveDialog,
    theme: &Theme,
) -> Position {
    let mut body = DialogLines::new(screen);
    let choices = dialog.choices(&app.model, &app.formats);
    let list = save_choices(&choices, body.width, theme);
    let chosen = choices.iter().position(|choice| choice.chosen).unwrap_or(0);
    let (problem, text) = save_texts(app, dialog, body.width, theme);
    let mut hints = vec![(&[A::Accept][..], "write")];
    if dialog.fix().is_some() {
        hints.push((&[A::Fix][..], "fix"));
    }
    if dialog.missing.is_some() {
        hints.push((&[A::CreateDirectory][..], "create the directory"));
    }
    if matches!(dialog.kind, SaveKind::Quantize(_) | SaveKind::Static) {
        hints.push((&[A::Target][..], "target"));
    }
    let choose = [A::Move(Motion::Up), A::Move(Motion::Down)];
    hints.extend([(&choose[..], "choose"), (&[A::Close][..], "write nothing")]);
    let keys = keys(app, Context::Save, &hints, body.width, theme);
    let room = usize::from(screen.height.saturating_sub(6));
    let roomy = list.len() + problem.len() + text.len() + keys.len() + 4 <= room;
    let gap = |body: &mut DialogLines| {
        if roomy {
            body.blank();
        }
    };
    // Without room for everything, the list shows the entries around the selected one, and the
    // reason of a refusal is the first text.
    let rows = room.saturating_sub(problem.len() + keys.len() + 1).clamp(1, list.len());
    let rows = match (roomy, problem.is_empty()) {
        (true, _) => list.len(),
        (false, true) => rows.min(3),
        (false, false) => 1,
    };
    let first = (chosen + 1).saturating_sub(rows);
    list.into_iter().skip(first).take(rows).for_each(|line| body.push(line));
    gap(&mut body);
    let path_line = body.lines.len() as u16;
    body.push(Line::styled("to", theme.dim));
    gap(&mut body);
    let left = room.saturating_sub(body.lines.len() + keys.len());
    let texts = if roomy { [text, problem].concat() } else { [problem, text].concat() };
    // A text that is too long for the window has pages.
    let left = left.max(1);
    let is_long = texts.len() > left;
    let page = if is_long { left.saturating_sub(1).max(1) } else { left };
    let pages = texts.len().div_ceil(page).max(1);
    let at = dialog.page.rem_euclid(pages as isize) as usize;
    texts.into_iter().skip(at * page).take(page).for_each(|line| body.push(line));
    if is_long {
        let key = app.settings.keys.name(Context::Save, A::Move(Motion::PageDown));
        let more = format!("{key} more of this text: {} of {pages}", at + 1);
        body.push(Line::styled(more, theme.dim));
    }
    gap(&mut body);
    keys.into_iter().for_each(|line| body.push(line));
    let inside = body.draw(buf, screen, dialog.title(), theme.strong, theme);
    text::more(buf, layout::outside(inside), first, rows, choices.len(), theme);
    let line = Rect {
        x: inside.x + 4,
        y: (inside.y + path_line).min(inside.bottom().saturating_sub(1)),
        width: inside.width.saturating_sub(4),
        height: 1,
    };
    widgets::input(buf, line, &dialog.path, theme)
}

/// A line for each format or type. Those that do not fit are dim, with the reason if there is
/// room for it; the reason of the chosen one is always shown below the list.
fn save_choices<'a>(choices: &[SaveChoice], width: usize, theme: &Theme) -> Vec<Line<'a>> {
    let longest = choices.iter().map(|choice| choice.name.chars().count()).max().unwrap_or(0) + 2;
    let line = |choice: &SaveChoice| {
        let sign = if choice.chosen { "▸ " } else { "  " };
        let style = match (choice.chosen, &choice.obstacle) {
            (true, _) => theme.accent,
            (false, None) => theme.text,
            (false, Some(_)) => theme.faint,
        };
        let note = choice.obstacle.as_deref().unwrap_or(choice.summary);
        let room = width.saturating_sub(longest + 2);
        let note = match (note.chars().count() <= room, &choice.obstacle) {
            (true, _) => note.to_owned(),
            (false, Some(_)) if room >= 12 => "does not fit".to_owned(),
            (false, _) => String::new(),
        };
        let note_style = if choice.obstacle.is_some() { theme.faint } else { theme.dim };
        Line::from(vec![
            Span::styled(sign, theme.accent),
            Span::styled(format!("{:<longest$}", choice.name), style),
            Span::styled(note, note_style),
        ])
    };
    choices.iter().map(line).collect()
}

/// The reason of a refusal, and what the save would write.
fn save_texts<'a>(
    app: &App,
    dialog: &SaveDialog,
    width: usize,
    theme: &Theme,
) -> (Vec<Line<'a>>, Vec<Line<'a>>) {
    let wrapped = |text: &str, style: Style| -> Vec<Line<'a>> {
        wrap(text, width).into_iter().map(|row| Line::styled(row, style)).collect()
    };
    let refusal = dialog.preview.as_ref().and_then(|preview| preview.as_ref().err());
    let why = dialog.problem.as_ref().or(refusal.map(|refusal| &refusal.why));
    let mut problem: Vec<Line> = why.iter().flat_map(|why| wrapped(why, theme.bad)).collect();
    if let Some(fix) = dialog.fix() {
        let key = app.settings.keys.name(Context::Save, A::Fix);
        let what = names::visible(&fix.what).into_owned();
        problem.extend(wrapped(&format!("{key}: {what}"), theme.accent));
    }
    let mut text: Vec<Line> = Vec::new();
    if dialog.kind.container().is_some() {
        let target = &app.model.plan().target;
        let note = if target.loaders().is_empty() {
            "for no loader in particular".to_owned()
        } else {
            format!("for {target}")
        };
        text.extend(wrapped(&note, theme.dim));
    }
    if dialog.offers_rounding(&app.model) {
        let rounding = dialog.rounding(&app.model);
        let switches = [
            (A::ErrorCompensation, "error compensation (GPTQ)", rounding.compensates),
            (A::ClipSearch, "clips by the output error", rounding.searches_clips),
        ];
        for (action, name, is_on) in switches {
            let key = app.settings.keys.name(Context::Save, action);
            let (state, style) = if is_on { ("on", theme.accent) } else { ("off", theme.dim) };
            text.extend(wrapped(&format!("{key} {name}: {state}"), style));
        }
    }
    text.extend(dialog.summary(&app.model).iter().flat_map(|line| wrapped(line, theme.text)));
    for warning in dialog.warnings(&app.model) {
        text.extend(wrapped(&format!("! {}", names::visible(&warning)), theme.warning));
    }
    (problem, text)
}

pub(super) fn replace(
    buf: &mut Buffer,
    screen: Rect,
    app: &App,
    dialog: &SaveDialog,
    theme: &Theme,
) {
    let mut body = DialogLines::new(screen);
    let path = names::visible(dialog.path.value().trim()).into_owned();
    body.wrapped(&format!("{path} exists. Replace it?"), theme.text);
    body.wrapped("It is replaced only after the new one is verified.", theme.dim);
    body.blank();
    let hints = [(&[A::Accept][..], "replace it"), (&[A::Close][..], "choose another path")];
    body.extend(keys(app, Context::Question, &hints, body.width, theme));
    body.draw(buf, screen, "Replace?", theme.warning, theme);
}

pub(super) fn saving(buf: &mut Buffer, screen: Rect, app: &App, saving: &Saving, theme: &Theme) {
    let mut body = DialogLines::new(screen);
    let out = saving.request.out.display().to_string();
    let out = names::visible(&out).into_owned();
    body.push(Line::raw(names::shorten(&out, body.width).into_owned()));
    body.blank();
    let mut bar =
        widgets::bar(saving.meter.share(), body.width.min(60), theme.accent, theme).to_vec();
    bar.push(Span::raw(format!(" {:>3.0} %", saving.meter.share() * 100.0)));
    body.push(bar);
    let phase = if saving.cancelled { "stopping" } else { saving.phase };
    body.push(vec![
        Span::styled(phase, theme.accent),
        Span::styled(format!("  {}", header::progress(&saving.meter)), theme.dim),
    ]);
    body.blank();
    let hints = [(&[A::Cancel][..], "cancel and clean up")];
    body.extend(keys(app, Context::Saving, &hints, body.width, theme));
    body.draw(buf, screen, "Writing", theme.strong, theme);
}
