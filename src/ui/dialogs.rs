//! Dialogs: presets, schemes, targets, names, columns, prompts and questions.

use crate::app::figures::{bytes, count, counted, decibels};
use crate::app::keys::Context;
use crate::app::open_model::OpenModel;
use crate::app::overlay::{Columns, GoTo, Presets};
use crate::app::pager::wrap;
use crate::app::prompt::{Prompt, Purpose};
use crate::app::scheme_list::{SchemeFigures, SchemeList, Scope};
use crate::app::scroll::Motion;
use crate::app::target_list::TargetList;
use crate::app::tensor_metrics::scheme_name;
use crate::app::{Action as A, App, names};
use crate::ui::dialog_lines::{DialogLines, keys};
use crate::ui::theme::Theme;
use crate::ui::{layout, text, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};
use std::path::Path;

/// Draws the list of schemes, with a description of what Enter does below it.
pub(super) fn schemes(buf: &mut Buffer, screen: Rect, app: &App, list: &SchemeList, theme: &Theme) {
    let mut body = DialogLines::new(screen);
    let names = list.choices.iter().map(|choice| scheme_name(choice.scheme).chars().count());
    let longest = names.max().unwrap_or(0) + 2;
    // Groups that do not fit are left out. Those of the marks that Enter changes are shown.
    let columns = (body.width.saturating_sub(longest + 4) / SCHEME_FIGURES).min(3);
    let first_group = match list.scope {
        Scope::Row => 0,
        Scope::MarkedAndShown | Scope::All => 1.min(3 - columns),
    };
    let titles = [
        "this row".to_owned(),
        format!("{} marked", count(list.marked.len() as u64)),
        format!("{} shown", count(list.shown.len() as u64)),
    ];
    let heads = titles
        .iter()
        .skip(first_group)
        .take(columns)
        .map(|title| format!("{title:>SCHEME_FIGURES$}"));
    let heads: String = heads.collect();
    body.push(Line::styled(format!("{:w$}{heads}", "", w = longest + 4), theme.dim));
    let first = list.row.tensors.first().map(|&id| app.model.scheme_of(id));
    for number in seen(screen, app) {
        let Some(choice) = list.choices.get(number) else { continue };
        let chosen = number == list.chosen;
        let now = first == Some(choice.scheme);
        let style = if chosen { theme.accent } else { theme.text };
        let mut spans = vec![
            Span::styled(if chosen { "▸ " } else { "  " }, theme.accent),
            Span::styled(if now { "● " } else { "  " }, theme.mark),
            Span::styled(format!("{:<longest$}", scheme_name(choice.scheme)), style),
        ];
        let groups = [
            (choice.row, list.row.tensors.len()),
            (choice.marked, list.marked.len()),
            (choice.shown, list.shown.len()),
        ];
        for (figures, tensors) in groups.into_iter().skip(first_group).take(columns) {
            spans.extend(scheme_figures(figures, tensors, theme));
        }
        body.push(spans);
    }
    body.blank();
    let style = if list.text(&app.model, "").1 { theme.text } else { theme.bad };
    for row in layout::text_below(screen.as_size(), app) {
        body.push(Line::styled(row, style));
    }
    let step = [A::PreviousScope, A::NextScope];
    let hints =
        [(&[A::Accept][..], "take it"), (&step[..], "for which marks"), (&[A::Close][..], "leave")];
    body.extend(keys(app, Context::Schemes, &hints, body.width, theme));
    let inside = body.draw(buf, screen, "Which scheme?", theme.strong, theme);
    counter(buf, screen, app, inside, theme);
}

/// Width of the SQNR and the bytes of a group of tensors, in columns.
const SCHEME_FIGURES: usize = 19;

/// The SQNR and the bytes of a scheme for a group of tensors.
fn scheme_figures<'a>(figures: SchemeFigures, tensors: usize, theme: &Theme) -> Vec<Span<'a>> {
    if figures.refused == tensors {
        let text = if tensors == 0 { "–" } else { "does not fit" };
        return vec![Span::styled(format!("{text:>SCHEME_FIGURES$}"), theme.faint)];
    }
    let db = match figures.mean {
        Some(db) => Span::styled(format!("{:>10}", decibels(db)), theme.rate(db).1),
        None => Span::styled(format!("{:>10}", "…"), theme.faint),
    };
    vec![db, Span::raw(format!("{:>9}", bytes(figures.bytes)))]
}

/// Draws the list of targets, with a description of the target under the cursor below it.
pub(super) fn targets(buf: &mut Buffer, screen: Rect, app: &App, list: &TargetList, theme: &Theme) {
    let mut body = DialogLines::new(screen);
    let longest = list.choices.iter().map(|choice| choice.name.len()).max().unwrap_or(0) + 2;
    let room = body.width.saturating_sub(longest + 6);
    for number in seen(screen, app) {
        let Some(choice) = list.choices.get(number) else { continue };
        let chosen = number == list.chosen;
        let style = match (chosen, &choice.target) {
            (true, _) => theme.accent,
            (false, Ok(_)) => theme.text,
            (false, Err(_)) => theme.faint,
        };
        let ticked = choice.loader.is_some_and(|loader| list.loaders.contains(&loader));
        let tick = match (list.loaders.is_empty(), choice.loader) {
            (true, _) => "",
            (false, Some(_)) if ticked => "[x] ",
            (false, Some(_)) => "[ ] ",
            (false, None) => "    ",
        };
        let note = match &choice.target {
            Ok(_) => choice.summary,
            Err(why) if why.chars().count() <= room => why,
            Err(_) => "not for this model",
        };
        let note = if note.chars().count() <= room { note.to_owned() } else { String::new() };
        body.push(vec![
            Span::styled(if chosen { "▸ " } else { "  " }, theme.accent),
            Span::styled(format!("{tick}{:<longest$}", choice.name), style),
            Span::styled(note, if choice.target.is_ok() { theme.dim } else { theme.faint }),
        ]);
    }
    body.blank();
    let style = if list.text().1 { theme.text } else { theme.bad };
    for row in layout::text_below(screen.as_size(), app) {
        body.push(Line::styled(row, style));
    }
    let step = [A::PreviousTargetScheme, A::NextTargetScheme];
    let hints = [
        (&[A::Accept][..], "take it"),
        (&[A::Toggle][..], "also this"),
        (&step[..], "scheme"),
        (&[A::Close][..], "keep"),
    ];
    body.extend(keys(app, Context::Targets, &hints, body.width, theme));
    let title = "Which program is to load the output?";
    let inside = body.draw(buf, screen, title, theme.strong, theme);
    counter(buf, screen, app, inside, theme);
}

/// Draws the dialog that opens another model.
pub(super) fn open(
    buf: &mut Buffer,
    screen: Rect,
    app: &App,
    dialog: &OpenModel,
    theme: &Theme,
) -> Position {
    let mut body = DialogLines::new(screen);
    let hints = [
        (&[A::Accept][..], "open"),
        (&[A::Move(Motion::Up), A::Move(Motion::Down)][..], "choose"),
        (&[A::Complete][..], "complete the path"),
        (&[A::Close][..], "stay"),
    ];
    let keys = keys(app, Context::Open, &hints, body.width, theme);
    body.push(Line::styled("path", theme.dim));
    body.blank();
    let choices = dialog.choices();
    let room = usize::from(screen.height.saturating_sub(6));
    let room = room.saturating_sub(body.lines.len() + keys.len() + 1);
    let problem = dialog.problem.as_deref().map(|why| message_end(why, body.width, room));
    let problem = problem.unwrap_or_default();
    let rows = room.saturating_sub(problem.len()).clamp(usize::from(problem.is_empty()), OPEN_ROWS);
    let first = dialog.chosen.map_or(0, |chosen| (chosen + 1).saturating_sub(rows));
    if choices.is_empty() && rows > 0 {
        let text =
            if dialog.searching { "searching for models …" } else { "no known model fits" };
        body.push(Line::styled(text, theme.dim));
    }
    for (number, choice) in choices.iter().enumerate().skip(first).take(rows) {
        let chosen = dialog.chosen == Some(number);
        let room = body.width.saturating_sub(choice.place.chars().count() + 4);
        let name = names::shorten(&choice.name, room).into_owned();
        let gap = " ".repeat(room.saturating_sub(names::width(&name)) + 2);
        body.push(vec![
            Span::styled(if chosen { "▸ " } else { "  " }, theme.accent),
            Span::styled(name, if chosen { theme.accent } else { theme.text }),
            Span::styled(format!("{gap}{}", choice.place), theme.dim),
        ]);
    }
    problem.into_iter().for_each(|row| body.push(Line::styled(row, theme.bad)));
    body.blank();
    body.extend(keys);
    let inside = body.draw(buf, screen, "Open another model", theme.strong, theme);
    if rows > 0 {
        text::more(buf, layout::outside(inside), first, rows, choices.len(), theme);
    }
    let line = Rect { x: inside.x + 6, width: inside.width.saturating_sub(6), height: 1, ..inside };
    widgets::input(buf, line, &dialog.input, theme)
}

/// Wraps a message about the path in the input line. If it is longer than `room` rows, its end is
/// kept: it starts with the path, and ends with what is wrong.
fn message_end(message: &str, width: usize, room: usize) -> Vec<String> {
    let mut rows = wrap(message, width);
    if rows.len() > room {
        rows.drain(..rows.len() - room);
        if let Some(first) = rows.first_mut() {
            *first = format!("…{}", first.chars().skip(1).collect::<String>());
        }
    }
    rows
}

/// Rows of the list of models to open.
const OPEN_ROWS: usize = 12;

/// Draws a prompt.
pub(super) fn prompt(
    buf: &mut Buffer,
    screen: Rect,
    app: &App,
    prompt: &Prompt,
    theme: &Theme,
) -> Position {
    let mut body = DialogLines::new(screen);
    body.push(Line::styled("▸", theme.accent));
    body.blank();
    // On a small screen the explanation makes room for what went wrong.
    if prompt.problem.is_none() || screen.height >= 20 {
        body.explain(prompt.purpose.explanation(), theme.dim);
    }
    let word = match prompt.purpose {
        Purpose::Index(_) => "go there",
        Purpose::WriteRecipe | Purpose::WriteReport => "write",
        Purpose::ReadRecipe => "read",
        Purpose::Activations => "measure",
        Purpose::Diff => "compare",
    };
    let mut hints = vec![(&[A::Accept][..], word)];
    if prompt.purpose.is_path() {
        hints.push((&[A::Complete][..], "complete"));
    }
    if prompt.missing.is_some() {
        hints.push((&[A::CreateDirectory][..], "create the directory"));
    }
    hints.push((&[A::Close][..], "leave"));
    let keys = keys(app, Context::Prompt, &hints, body.width, theme);
    if let Some(problem) = &prompt.problem {
        body.blank();
        let room = usize::from(screen.height.saturating_sub(6));
        let room = room.saturating_sub(body.lines.len() + keys.len() + 1);
        message_end(problem, body.width, room)
            .into_iter()
            .for_each(|row| body.push(Line::styled(row, theme.bad)));
    }
    body.blank();
    body.extend(keys);
    let inside = body.draw(buf, screen, prompt.purpose.title(), theme.strong, theme);
    let line = Rect { x: inside.x + 2, width: inside.width.saturating_sub(2), height: 1, ..inside };
    widgets::input(buf, line, &prompt.input, theme)
}

/// Asks whether to leave marks that are not saved: for another model, or to quit.
pub(super) fn leave(
    buf: &mut Buffer,
    screen: Rect,
    app: &App,
    other: Option<&Path>,
    theme: &Theme,
) {
    let mut body = DialogLines::new(screen);
    let marked = counted(app.model.plan().len(), "mark");
    let verb = if app.model.plan().len() == 1 { "is" } else { "are" };
    let (question, yes, title) = match other {
        None => ("Quit anyway?", "quit", "Quit?"),
        Some(_) => ("Open the other model anyway?", "open", "Leave this model?"),
    };
    body.wrapped(&format!("{marked} {verb} not saved. {question}"), theme.text);
    body.blank();
    let hints = [(&[A::Accept][..], yes), (&[A::Close][..], "stay")];
    body.extend(keys(app, Context::Question, &hints, body.width, theme));
    body.draw(buf, screen, title, theme.warning, theme);
}

pub(super) fn presets(buf: &mut Buffer, screen: Rect, app: &App, presets: &Presets, theme: &Theme) {
    let mut body = DialogLines::new(screen);
    for number in seen(screen, app) {
        let Some(choice) = presets.choices.get(number) else { continue };
        let chosen = number == presets.chosen;
        let style = if chosen { theme.accent } else { theme.text };
        let size = match choice.tensors.len() {
            0 => String::new(),
            n => format!("{:>14}  {:>9}", counted(n, "tensor"), bytes(choice.bytes)),
        };
        body.push(vec![
            Span::styled(if chosen { "▸ " } else { "  " }, theme.accent),
            Span::styled(format!("{:<24}", choice.name()), style),
            Span::styled(size, theme.dim),
        ]);
    }
    body.blank();
    let hints = [
        (&[A::Accept][..], "mark only these"),
        (&[A::Add][..], "add these"),
        (&[A::Close][..], "leave"),
    ];
    body.extend(keys(app, Context::Presets, &hints, body.width, theme));
    let inside = body.draw(buf, screen, "Mark by role", theme.strong, theme);
    counter(buf, screen, app, inside, theme);
}

/// Draws the list of columns; those of the table are ticked.
pub(super) fn columns(buf: &mut Buffer, screen: Rect, app: &App, columns: &Columns, theme: &Theme) {
    let mut body = DialogLines::new(screen);
    for number in seen(screen, app) {
        let Some(&column) = columns.choices.get(number) else { continue };
        let chosen = number == columns.chosen;
        let shown = app.settings.columns.contains(&column);
        let style = if chosen { theme.accent } else { theme.text };
        body.push(vec![
            Span::styled(if chosen { "▸ " } else { "  " }, theme.accent),
            Span::styled(if shown { "[x] " } else { "[ ] " }, style),
            Span::styled(column.meaning(), style),
        ]);
    }
    body.blank();
    let hints = [
        (&[A::Toggle][..], "show or hide"),
        (&[A::Accept][..], "order by it"),
        (&[A::Close][..], "done"),
    ];
    body.extend(keys(app, Context::Columns, &hints, body.width, theme));
    let title = "Columns to show, if there is room";
    let inside = body.draw(buf, screen, title, theme.strong, theme);
    counter(buf, screen, app, inside, theme);
}

/// Says in the border of a window which entries of the open list are visible, if not all are.
fn counter(buf: &mut Buffer, screen: Rect, app: &App, inside: Rect, theme: &Theme) {
    if let Some(list) = layout::list(screen.as_size(), app) {
        let rows = list.area.height.into();
        text::more(buf, layout::outside(inside), list.first, rows, list.count, theme);
    }
}

/// The indices of the visible entries of the open list.
fn seen(screen: Rect, app: &App) -> std::ops::Range<usize> {
    layout::list(screen.as_size(), app).map_or(0..0, |list| list.seen())
}

pub(super) fn go_to(
    buf: &mut Buffer,
    screen: Rect,
    app: &App,
    go_to: &GoTo,
    theme: &Theme,
) -> Position {
    let mut body = DialogLines::new(screen);
    body.push(Line::styled(":", theme.accent));
    body.blank();
    let list = layout::list(screen.as_size(), app);
    let rows = list.map_or(0, |list| usize::from(list.area.height));
    let seen = seen(screen, app);
    for number in seen.clone() {
        let Some(&id) = go_to.names.get(number) else { continue };
        let chosen = number == go_to.chosen;
        let name = names::visible(&app.model.checkpoint.tensor(id).name).into_owned();
        let name = names::shorten(&name, body.width - 2).into_owned();
        body.push(vec![
            Span::styled(if chosen { "▸ " } else { "  " }, theme.accent),
            Span::styled(name, if chosen { theme.accent } else { theme.text }),
        ]);
    }
    // Keep the height while the user types.
    for _ in seen.len()..rows {
        body.blank();
    }
    let more = go_to.count.saturating_sub(go_to.names.len());
    let problem = go_to.problem.as_ref().map(|why| Line::styled(why.clone(), theme.bad));
    body.push(match (go_to.count, more) {
        _ if problem.is_some() => problem.unwrap_or_default(),
        (0, _) => Line::styled("No tensor of that name.", theme.dim),
        (_, 0) => Line::default(),
        (_, more) => Line::styled(format!("  and {} more", count(more as u64)), theme.dim),
    });
    let inside = body.draw(buf, screen, "Go to", theme.strong, theme);
    let line = Rect { x: inside.x + 2, width: inside.width.saturating_sub(2), height: 1, ..inside };
    widgets::input(buf, line, &go_to.input, theme)
}
