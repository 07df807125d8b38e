//! Thousands of random keys, texts and clicks on the real application: its invariants hold, and
//! undoing everything restores the initial plan.
//!
//! `QUANTSCOPE_SOAK=20000 cargo test --release --test robustness random_actions -- --nocapture`
//! sets the number of actions.

use crate::support::checkpoint::{Tensor, f32s, in_memory, weights};
use crate::support::driver::{DEMO, Driver, SHARDED};
use crate::support::random::Random;
use quantscope::app::Event;
use quantscope::app::keys::{BINDINGS, Context, Key};
use quantscope::app::overlay::Overlay;
use quantscope::app::table::Table;
use quantscope::app::tensor_metrics::Sqnr;
use quantscope::app::tree::TreeItem;
use quantscope::checkpoint::Checkpoint;
use quantscope::tensor::TensorId;
use std::path::Path;

fn actions() -> usize {
    std::env::var("QUANTSCOPE_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(1500)
}

/// A checkpoint with unusual names, types and values.
fn unusual_checkpoint() -> Checkpoint {
    let of = |name: &str, dtype, shape: &[u64], bytes: usize| Tensor {
        name: name.into(),
        dtype,
        shape: shape.into(),
        bytes: vec![0; bytes],
    };
    in_memory(&[
        weights("a.0.weight", &[8, 16]),
        weights("a.0.bias", &[8]),
        weights("a.1.weight", &[4, 4, 3, 3]),
        weights("层.权重", &[16, 8]),
        weights("evil\n\u{1b}[2J\u{202e}", &[4, 4]),
        f32s("nan", &[2, 2], [1.0, f32::NAN, 2.0, 3.0]),
        f32s("zeros.weight", &[4, 4], [0.0; 16]),
        of("ids", "I64", &[2], 16),
        of("empty", "F32", &[0, 4], 0),
        of("new", "F5_NEW", &[3], 7),
        of("scalar", "BF16", &[], 2),
    ])
}

/// Whether keys are typed into a path.
fn is_typing_a_path(driver: &Driver) -> bool {
    matches!(driver.app.overlay, Some(Overlay::Save(_) | Overlay::Prompt(_) | Overlay::Replace(_)))
}

fn act(driver: &mut Driver, random: &mut Random, number: usize) {
    const WORDS: [&str; 10] =
        ["weight", "re:^a", "re:(", "*.0.*", "is:marked", "sqnr<30", "zzz", "!bias", "层", "-"];
    match random.below(20) {
        0..=12 => {
            let keys = BINDINGS[random.below(BINDINGS.len())].keys;
            let key = keys[random.below(keys.len())];
            // Keep paths below the directory of the test.
            match key {
                Key::Enter if is_typing_a_path(driver) => {
                    driver.press("Ctrl-u");
                    driver.type_text(["out.safetensors", "out", "out.toml", ""][random.below(4)]);
                    driver.send(Event::Key(key));
                }
                Key::Char('/' | '.' | '~' | ':') if is_typing_a_path(driver) => {}
                _ => driver.send(Event::Key(key)),
            }
        }
        13 => {
            let word = WORDS[random.below(WORDS.len())];
            if is_typing_a_path(driver) { driver.type_text("out") } else { driver.type_text(word) }
        }
        14 if !is_typing_a_path(driver) => {
            driver.send(Event::Paste(WORDS[random.below(WORDS.len())].repeat(3)));
        }
        15 => {
            let sizes = [(120, 36), (60, 15), (80, 24), (20, 5), (300, 90), (61, 16)];
            let (width, height) = sizes[random.below(sizes.len())];
            driver.resize(width, height);
        }
        16 | 17 => driver.click(random.below(120) as u16, random.below(36) as u16),
        18 => driver.send(Event::Wheel(random.below(9) as isize - 4)),
        _ => driver.tick(number.is_multiple_of(2).then_some(0.5)),
    }
}

fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn assert_true(driver: &Driver, what: &str) {
    let app = &driver.app;
    let table = &app.table;
    let rows = table.rows().len();
    assert!(table.cursor() < rows || (rows == 0 && table.cursor() == 0), "{what}: the cursor");
    let visible = table.visible();
    assert!(visible.start <= visible.end && visible.end <= rows, "{what}: {visible:?} of {rows}");

    let (model, checkpoint) = (&app.model, &app.model.checkpoint);
    let (plan, totals) = (model.plan(), model.totals());
    let mut after = checkpoint.total_bytes();
    for (id, quantizer) in plan.iter() {
        let info = checkpoint.tensor(id);
        let stored = if plan.target.is_default() && quantizer.scheme.is_scaled_int8() {
            info.parameters() + 4 * quantizer.scheme.scale_shape(&info.shape).elements()
        } else {
            model.bytes(id, quantizer.scheme)
        };
        after = after - info.bytes + stored;
        assert!(model.is_marked(id));
    }
    for id in checkpoint.ids().filter(|&id| checkpoint.packed_format(id).is_none()) {
        let computed = Sqnr::of(model.measurement(id), model.quantizer_of(id));
        assert_eq!(model.sqnr(id), computed, "{what}: {}", checkpoint.tensor(id).name);
    }
    assert_eq!(totals.marked, plan.len(), "{what}");
    let target = &plan.target;
    let sizes = (totals.before, totals.after);
    assert_eq!(sizes, (checkpoint.total_bytes(), after), "{what}, target {target}");
    assert_eq!(table.shown_count(), table.shown().count(), "{what}");
    for row in table.rows() {
        let TreeItem::Module(node) = row.item else { continue };
        let (found, below) = (table.totals(node), table.tensors_of(row.item));
        let sum = |of: &dyn Fn(&quantscope::tensor::TensorInfo) -> u64| {
            below.iter().map(|&id| of(checkpoint.tensor(id))).sum::<u64>()
        };
        let marked = below.iter().filter(|&&id| model.is_marked(id)).count();
        assert_eq!((found.tensors, found.marked), (below.len(), marked), "{what}");
        assert_eq!(found.bytes, sum(&|t| t.bytes), "{what}");
        assert_eq!(found.parameters, sum(&|t| t.parameters()), "{what}");
    }
}

fn assert_drawn(driver: &Driver, what: &str) {
    for cell in driver.buffer().content() {
        assert!(!cell.symbol().contains(is_hostile), "{what}: {:?}", cell.symbol());
    }
}

/// Asserts that the incrementally updated order equals that of a new table.
fn assert_ordered(driver: &mut Driver, what: &str) {
    driver.press("R R");
    let (model, table) = (&driver.app.model, &driver.app.table);
    let mut new = Table::new(model);
    new.start_with(table.sort, table.as_tree, model);
    let expected: Vec<TensorId> = new.shown().filter(|&id| table.is_shown(id)).collect();
    assert!(table.shown().eq(expected), "{what}: by {}", table.sort.describe());
}

/// Closes every window.
fn close_all(driver: &mut Driver) {
    for _ in 0..20 {
        if driver.app.overlay.is_none() && driver.app.context() == Context::Table {
            return;
        }
        driver.press("Esc");
    }
    panic!("Esc does not lead out:\n{}", driver.screen());
}

fn soak(name: &str, open: &dyn Fn() -> Checkpoint, seed: u64) {
    let mut random = Random(seed);
    let mut driver = Driver::of(open(), false);
    let start = driver.app.model.plan().clone();
    for number in 0..actions() {
        act(&mut driver, &mut random, number);
        let what = format!("{name}, action {number} of seed {seed}");
        assert_true(&driver, &what);
        if number % 8 == 0 {
            assert_drawn(&driver, &what);
        }
        if number % 16 == 0 && driver.app.context() == Context::Table {
            assert_ordered(&mut driver, &what);
        }
    }
    close_all(&mut driver);
    let last = driver.app.model.plan().clone();
    let (undos, _) = driver.app.model.undo_depth();
    (0..undos).for_each(|_| driver.press("u"));
    assert_eq!(driver.app.model.undo_depth().0, 0);
    assert_eq!(driver.app.model.plan(), &start, "{name}: undoing everything gives the start");
    (0..undos).for_each(|_| driver.press("U"));
    assert_eq!(driver.app.model.plan(), &last, "{name}: and redoing it the end");
    assert_true(&driver, name);
    println!("{name}: {} actions, {undos} changes of marks undone and redone", actions());
}

#[test]
fn random_actions_on_the_demo() {
    soak("demo", &|| Checkpoint::open(Path::new(DEMO)).expect("opens"), 1);
}

#[test]
fn random_actions_on_shards() {
    soak("shards", &|| Checkpoint::open(Path::new(SHARDED)).expect("opens"), 2);
}

#[test]
fn random_actions_on_unusual_tensors() {
    soak("unusual", &unusual_checkpoint, 3);
}

#[test]
fn random_actions_on_quantized_tensors() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("int8.safetensors");
    let saved = assert_cmd::Command::new(env!("CARGO_BIN_EXE_quantscope"))
        .args(["quantize", SHARDED, "--include", "*.mlp.*", "--quiet", "-o"])
        .arg(&path)
        .assert();
    saved.success();
    soak("quantized", &|| Checkpoint::open(&path).expect("opens"), 4);
}
