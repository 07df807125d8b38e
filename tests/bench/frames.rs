//! The time from a key to the next frame with 100,000 tensors: `cargo bench --bench frames
//! [-- WORD]`. A frame at 60 Hz takes 16 ms.
//!
//! Filters are typed key by key; each row of the table has the slowest key and the median. Then
//! follow sorting, the tree, marks, and incoming findings.

#[path = "../support/mod.rs"]
mod support;

use quantscope::app::keys::Key;
use quantscope::app::{Event, update};
use quantscope::checkpoint::Checkpoint;
use quantscope::quantization::{
    AnalysisSpec, Calibration, QuantizationScheme, Quantizer, Rounding, analyze,
};
use quantscope::tensor::{FloatType, Shape, TensorId};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::time::{Duration, Instant};
use support::checkpoint as made;
use support::driver::Driver;

const COUNT: usize = 100_000;

fn checkpoint() -> Checkpoint {
    let parts = ["attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down", "norm.a", "norm.b"];
    let tensors: Vec<made::Tensor> = (100..100 + COUNT / parts.len())
        .flat_map(|layer| parts.map(|part| format!("model.layers.{layer}.{part}.weight")))
        .zip(1..)
        .map(|(name, n)| made::f32s(&name, &[2, 2], [1.0, 0.3, (n as f32).sin(), 0.1]))
        .collect();
    made::in_memory(&tensors)
}

/// Runs `work` and draws the next frame. Returns the time of both.
fn frame(driver: &mut Driver, work: impl FnOnce(&mut Driver)) -> Duration {
    let area = Rect::new(0, 0, 120, 36);
    let mut buffer = Buffer::empty(area);
    let started = Instant::now();
    work(driver);
    quantscope::ui::render(&mut buffer, area, &driver.app, &driver.theme);
    started.elapsed()
}

fn row(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    println!("| {what} | {:.1} | {:.1} |", ms(slowest), ms(median));
}

/// The finding of a scan for a tensor.
fn finding(driver: &Driver, spec: &AnalysisSpec, id: TensorId) -> Event {
    let mut reader = driver.app.model.checkpoint.reader();
    let (_, bytes) = reader.elements(id, 0..4).expect("reads").expect("floats");
    let shape = Shape::new([2, 2]).expect("fits");
    let found = Ok(analyze(spec, FloatType::F32, &shape, bytes));
    Event::Analyzed { generation: 1, tensor: id, found }
}

fn main() {
    let only = std::env::args().skip(1).find(|word| !word.starts_with("--")).unwrap_or_default();
    let wanted = |what: &str| what.contains(&only);
    println!("| over {COUNT} tensors | slowest, ms | median, ms |");
    println!("|---|---|---|");
    let mut driver = Driver::of(checkpoint(), true);
    let texts = [
        "/size>1k",
        "/is:marked",
        "/is:waiting attn",
        "/layers.7 attn q",
        "/mdl.atq",
        "/dtype:f32 norm",
        "/re:layers\\.[0-9]*7\\.attn",
        "/!norm *.q.*",
    ];
    for text in texts.into_iter().filter(|text| wanted(text)) {
        for mode in ["", " in the tree"] {
            if !mode.is_empty() {
                driver.press("t");
            }
            let mut took = Vec::new();
            for key in text.chars() {
                took.push(frame(&mut driver, |driver| driver.send(Event::Key(Key::Char(key)))));
            }
            for _ in text.chars().skip(1) {
                took.push(frame(&mut driver, |driver| driver.send(Event::Key(Key::Backspace))));
            }
            row(&format!("`{text}` typed and taken back{mode}"), took);
            driver.press("Esc Esc");
            if !mode.is_empty() {
                driver.press("t");
            }
        }
    }
    let keys = [
        ("another order", "> > > > > > > > R", 9),
        ("tree and list", "t t t t", 4),
        ("all unfolded and folded", "+ - + -", 4),
        ("everything marked and not", "a a a a", 4),
        ("everything inverted", "i i i i", 4),
        ("undone and done again", "u u U U", 4),
        ("another scheme", "X Down Enter X Up Enter", 6),
    ];
    for (what, keys, _) in keys.into_iter().filter(|(what, ..)| wanted(what)) {
        for mode in ["", ", in the tree"] {
            if !mode.is_empty() {
                driver.press("t");
            }
            let press = |key| frame(&mut driver, |driver: &mut Driver| driver.press(key));
            let took = keys.split(' ').map(press).collect();
            row(&format!("{what}{mode}"), took);
            if !mode.is_empty() {
                driver.press("t");
            }
        }
    }
    for order in ["worst first", "worst first, in the tree, all marked"] {
        if !wanted(order) {
            continue;
        }
        let mut driver = Driver::of(checkpoint(), true);
        if order.contains("tree") {
            driver.press("t + a");
        }
        let min_max = |scheme| Quantizer { calibration: Calibration::MinMax, scheme };
        let schemes = [QuantizationScheme::PER_TENSOR, QuantizationScheme::PER_CHANNEL];
        let spec = AnalysisSpec::errors(schemes.map(min_max).to_vec(), Rounding::default());
        let ids: Vec<TensorId> = driver.app.model.checkpoint.ids().collect();
        let mut took = Vec::new();
        for some in ids.chunks(COUNT / 50) {
            let events: Vec<_> = some.iter().map(|&id| finding(&driver, &spec, id)).collect();
            took.push(frame(&mut driver, |driver| {
                for event in events {
                    update(&mut driver.app, event);
                }
                driver.tick(Some(0.5));
            }));
        }
        row(&format!("{} findings and a second, {order}", COUNT / 50), took);
    }
}
