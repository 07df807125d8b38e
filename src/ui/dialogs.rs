//! Dialogs: saving, presets, names, columns, prompts and questions.

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
use crate::app::{Action as A, App, SaveChoice, SaveDialog, SaveKind, Saving, names};
use crate::ui::theme::Theme;
use crate::ui::{header, layout, text, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use std::ops::Range;
use std::path::Path;

const WIDTH: u16 = crate::ui::layout::DIALOG_WIDTH;

/// Draws the lines of a dialog from top to bottom.
struct DialogLines<'a> {
    lines: Vec<Line<'a>>,
    /// Lines that are left out if there is no room for all: explanations.
    optional: Range<usize>,
    width: usize,
}

impl<'a> DialogLines<'a> {
    fn new(screen: Rect) -> DialogLines<'a> {
        let window = crate::ui::layout::window(screen.as_size(), WIDTH, 1);
        let width = usize::from(window.width.saturating_sub(6));
        DialogLines { lines: Vec::new(), optional: 0..0, width }
    }

    fn push(&mut self, line: impl Into<Line<'a>>) {
        self.lines.push(line.into());
    }

    fn extend(&mut self, lines: Vec<Line<'a>>) {
        self.lines.extend(lines);
    }

    fn blank(&mut self) {
        self.lines.push(Line::default());
    }

    fn wrapped(&mut self, text: &str, style: Style) {
        for row in wrap(text, self.width) {
            self.lines.push(Line::styled(row, style));
        }
    }

    /// Adds an explanation, which is left out if there is no room for it.
    fn explain(&mut self, text: &str, style: Style) {
        let start = self.lines.len();
        self.wrapped(text, style);
        self.optional = start..self.lines.len();
    }

    /// Leaves out empty lines, then the explanation, until the lines fit. The first line stays,
    /// because it has the text that is typed.
    fn fit(&mut self, rows: usize) {
        while self.lines.len() > rows {
            let blank = self.lines.iter().rposition(|line| line.width() == 0);
            let Some(at) = blank.filter(|at| *at > 0) else { break };
            self.lines.remove(at);
            if at < self.optional.start {
                self.optional = self.optional.start - 1..self.optional.end - 1;
            }
        }
        while self.lines.len() > rows && !self.optional.is_empty() {
            self.optional.end -= 1;
            self.lines.remove(self.optional.end);
        }
    }

    fn draw(
        mut self,
        buf: &mut Buffer,
        screen: Rect,
        title: &str,
        style: Style,
        theme: &Theme,
    ) -> Rect {
        self.fit(usize::from(screen.height.saturating_sub(6)));
        let height = self.lines.len() as u16;
        let inside = widgets::window(buf, screen, WIDTH, height, title, style, theme);
        for (y, line) in (0..).zip(&self.lines) {
            widgets::line(buf, inside, y, line);
        }
        inside
    }
}

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
    text.extend(dialog.summary(&app.model).iter().flat_map(|line| wrapped(line, theme.text)));
    for warning in dialog.warnings(&app.model) {
        text.extend(wrapped(&format!("! {}", names::visible(&warning)), theme.warning));
    }
    (problem, text)
}

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

/// The actions of a dialog, each with its keys, in as many rows as they need.
fn keys<'a>(
    app: &App,
    context: Context,
    hints: &[(&[A], &'static str)],
    width: usize,
    theme: &Theme,
) -> Vec<Line<'a>> {
    let mut rows: Vec<Line> = Vec::new();
    for (actions, word) in hints {
        let own = actions.iter().map(|&action| app.settings.keys.name(context, action));
        let own: Vec<String> = own.collect();
        let spans = [
            Span::styled(own.join(" "), theme.accent),
            Span::styled(format!(" {word}  "), theme.dim),
        ];
        let needed: usize = spans.iter().map(Span::width).sum();
        match rows.last_mut() {
            // The gap after the last hint may be cut.
            Some(row) if row.width() + needed <= width + 2 => row.spans.extend(spans),
            _ => rows.push(Line::from(spans.to_vec())),
        }
    }
    rows
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
