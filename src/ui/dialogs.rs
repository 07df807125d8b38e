//! Dialogs: saving, presets, names, columns, prompts and questions.

use crate::app::figures::{bytes, count, counted};
use crate::app::keys::Context;
use crate::app::overlay::{Columns, GoTo, Presets};
use crate::app::pager::wrap;
use crate::app::prompt::{Prompt, Purpose};
use crate::app::scroll::Motion;
use crate::app::{Action as A, App, SaveDialog, Saving, names};
use crate::ui::theme::Theme;
use crate::ui::{header, layout, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

const WIDTH: u16 = crate::ui::layout::DIALOG;

/// Draws the lines of a dialog from top to bottom.
struct Body<'a> {
    lines: Vec<Line<'a>>,
    width: usize,
}

impl<'a> Body<'a> {
    fn new(screen: Rect) -> Body<'a> {
        let window = crate::ui::layout::window(screen.as_size(), WIDTH, 1);
        Body { lines: Vec::new(), width: usize::from(window.width.saturating_sub(6)) }
    }

    fn push(&mut self, line: impl Into<Line<'a>>) {
        self.lines.push(line.into());
    }

    fn blank(&mut self) {
        self.lines.push(Line::default());
    }

    fn wrapped(&mut self, text: &str, style: Style) {
        for row in wrap(text, self.width) {
            self.lines.push(Line::styled(row, style));
        }
    }

    fn draw(
        self,
        buf: &mut Buffer,
        screen: Rect,
        title: &str,
        style: Style,
        theme: &Theme,
    ) -> Rect {
        let height = self.lines.len() as u16;
        let inside = widgets::window(buf, screen, WIDTH, height, title, style, theme);
        for (y, line) in (0..).zip(&self.lines) {
            widgets::line(buf, inside, y, line);
        }
        inside
    }
}

pub(super) fn save(
    buf: &mut Buffer,
    screen: Rect,
    app: &App,
    dialog: &SaveDialog,
    theme: &Theme,
) -> Position {
    let mut body = Body::new(screen);
    for choice in dialog.choices(&app.model) {
        let (sign, style) = match choice.chosen {
            true => ("▸ ", theme.accent),
            false => ("  ", theme.dim),
        };
        body.push(vec![
            Span::styled(sign, theme.accent),
            Span::styled(format!("{:<18}", choice.name), style),
            Span::styled(choice.summary, theme.dim),
        ]);
    }
    body.blank();
    let path_line = body.lines.len() as u16;
    body.push(Line::styled("to", theme.dim));
    body.blank();
    for line in dialog.summary(&app.model) {
        body.push(Line::raw(line));
    }
    for warning in dialog.warnings(&app.model) {
        body.wrapped(&format!("! {}", names::visible(&warning)), theme.warning);
    }
    let unfit = dialog.laid_out.as_ref().and_then(|laid_out| laid_out.as_ref().err());
    if let Some(problem) = dialog.problem.as_ref().or(unfit) {
        body.blank();
        body.wrapped(problem, theme.bad);
    }
    body.blank();
    let choose = [A::Move(Motion::Up), A::Move(Motion::Down)];
    let hints =
        [(&[A::Accept][..], "write"), (&choose[..], "choose"), (&[A::Close][..], "write nothing")];
    body.push(keys(app, Context::Save, &hints, theme));
    let inside = body.draw(buf, screen, dialog.title(), theme.strong, theme);
    let line = Rect {
        x: inside.x + 4,
        y: (inside.y + path_line).min(inside.bottom().saturating_sub(1)),
        width: inside.width.saturating_sub(4),
        height: 1,
    };
    widgets::input(buf, line, &dialog.path, theme)
}

/// Draws a prompt.
pub(super) fn prompt(
    buf: &mut Buffer,
    screen: Rect,
    app: &App,
    prompt: &Prompt,
    theme: &Theme,
) -> Position {
    let mut body = Body::new(screen);
    body.push(Line::styled("▸", theme.accent));
    body.blank();
    body.wrapped(prompt.purpose.explanation(), theme.dim);
    if let Some(problem) = &prompt.problem {
        body.blank();
        body.wrapped(problem, theme.bad);
    }
    body.blank();
    let word = match prompt.purpose {
        Purpose::Index(_) => "go there",
        Purpose::WriteRecipe | Purpose::WriteReport => "write",
        Purpose::ReadRecipe => "read",
        Purpose::Activations => "measure",
        Purpose::Diff => "compare",
    };
    let hints = [(&[A::Accept][..], word), (&[A::Close][..], "leave")];
    body.push(keys(app, Context::Prompt, &hints, theme));
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
    let mut body = Body::new(screen);
    let path = names::visible(dialog.path.value().trim()).into_owned();
    body.wrapped(&format!("{path} exists. Replace it?"), theme.text);
    body.wrapped("It is replaced only after the new one is verified.", theme.dim);
    body.blank();
    let hints = [(&[A::Accept][..], "replace it"), (&[A::Close][..], "choose another path")];
    body.push(keys(app, Context::Question, &hints, theme));
    body.draw(buf, screen, "Replace?", theme.warning, theme);
}

/// The actions of a dialog, each with its keys.
fn keys<'a>(
    app: &App,
    context: Context,
    hints: &[(&[A], &'static str)],
    theme: &Theme,
) -> Line<'a> {
    let spans = hints.iter().flat_map(|(actions, word)| {
        let own = actions.iter().map(|&action| app.settings.keys.name(context, action));
        let own: Vec<String> = own.collect();
        [Span::styled(own.join(" "), theme.accent), Span::styled(format!(" {word}  "), theme.dim)]
    });
    Line::from(spans.collect::<Vec<_>>())
}

pub(super) fn saving(buf: &mut Buffer, screen: Rect, app: &App, saving: &Saving, theme: &Theme) {
    let mut body = Body::new(screen);
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
    body.push(keys(app, Context::Saving, &hints, theme));
    body.draw(buf, screen, "Writing", theme.strong, theme);
}

pub(super) fn quit(buf: &mut Buffer, screen: Rect, app: &App, theme: &Theme) {
    let mut body = Body::new(screen);
    let marked = counted(app.model.plan().len(), "mark");
    let verb = if app.model.plan().len() == 1 { "is" } else { "are" };
    body.push(Line::raw(format!("{marked} {verb} not saved. Quit anyway?")));
    body.blank();
    let hints = [(&[A::Accept][..], "quit"), (&[A::Close][..], "stay")];
    body.push(keys(app, Context::Question, &hints, theme));
    body.draw(buf, screen, "Quit?", theme.warning, theme);
}

pub(super) fn presets(buf: &mut Buffer, screen: Rect, app: &App, presets: &Presets, theme: &Theme) {
    let mut body = Body::new(screen);
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
    body.push(keys(app, Context::Presets, &hints, theme));
    body.draw(buf, screen, "Mark by role", theme.strong, theme);
}

/// Draws the list of columns; those of the table are ticked.
pub(super) fn columns(buf: &mut Buffer, screen: Rect, app: &App, columns: &Columns, theme: &Theme) {
    let mut body = Body::new(screen);
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
    body.push(keys(app, Context::Columns, &hints, theme));
    body.draw(buf, screen, "Columns to show, if there is room", theme.strong, theme);
}

/// The visible entries of the open list.
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
    let mut body = Body::new(screen);
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
    body.push(match (go_to.count, more) {
        (0, _) => Line::styled("No tensor of that name.", theme.dim),
        (_, 0) => Line::default(),
        (_, more) => Line::styled(format!("  and {} more", count(more as u64)), theme.dim),
    });
    let inside = body.draw(buf, screen, "Go to", theme.strong, theme);
    let line = Rect { x: inside.x + 2, width: inside.width.saturating_sub(2), height: 1, ..inside };
    widgets::input(buf, line, &go_to.input, theme)
}
