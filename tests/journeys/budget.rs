//! The budget: the schemes of the target, whole fusion units, and typed sizes.

use crate::support::driver::{Driver, SHARDED, TINY_LLAMA, in_repository};
use crate::support::{json, stdout};
use quantscope::app::overlay::Overlay;
use quantscope::checkpoint::Checkpoint;
use quantscope::quantization::QuantizationScheme;

const GGUF: &str = "tests/data/gguf/synth-a32.gguf";

fn choose_target(driver: &mut Driver, name: &str) {
    driver.press("T");
    while !driver.shows(&format!("▸ {name} ")) {
        driver.press("j");
    }
    driver.press("Enter");
}

#[test]
fn the_budget_offers_what_the_target_holds_and_keeps_units_whole() {
    let mut driver = Driver::open(SHARDED);
    choose_target(&mut driver, "vllm");
    driver.press("b");
    driver.expect("(•) per channel");
    driver.expect_not("block 32");
    // vLLM does not load one scale per tensor.
    driver.expect_not("( ) per tensor");
    let Some(Overlay::Budget(budget)) = &driver.app.overlay else { panic!("the budget is open") };
    let units = driver.app.model.rules().units();
    for point in 0..=budget.last() {
        let plan = budget.curve.plan(point, Default::default());
        assert_eq!(units.split_in(&plan).count(), 0, "at point {point}");
    }
    driver.press("Home Enter s");
    driver.expect("14 tensors quantized");
    driver.press("Enter");
    driver.expect("Saved and verified");
}

#[test]
fn a_format_with_one_scheme_has_one_scheme_chosen() {
    let mut driver = Driver::open(SHARDED);
    choose_target(&mut driver, "vllm");
    driver.press("T l Enter b");
    driver.expect("compressed-tensors W8A16");
    driver.press("Home");
    let schemes = |driver: &Driver| {
        let mut schemes: Vec<QuantizationScheme> = Vec::new();
        for (_, quantizer) in driver.app.model.plan().iter() {
            if !schemes.contains(&quantizer.scheme) {
                schemes.push(quantizer.scheme);
            }
        }
        schemes
    };
    assert_eq!(schemes(&driver), [QuantizationScheme::PER_CHANNEL]);
    driver.press("j Space");
    driver.expect("(•) block 128");
    assert_eq!(schemes(&driver), [QuantizationScheme::per_block(128)], "{}", driver.screen());
}

#[test]
fn sizes_shares_and_errors_are_typed() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("b");
    driver.type_text("500kB");
    driver.expect("go to    500kB");
    driver.press("Enter");
    let after = driver.app.model.totals().after;
    assert!((450_000..=500_000).contains(&after), "{after}");
    driver.expect("500kB: ");
    driver.press(":");
    driver.expect("60MB, 50% or 40dB");
    driver.type_text("60%");
    driver.press("Enter");
    let after = driver.app.model.totals().after;
    assert!(after <= 722_000 * 6 / 10, "{after}");
    driver.type_text("42dB");
    driver.press("Enter");
    let mean = driver.app.model.quality().mean.expect("marks");
    assert!((42.0..43.0).contains(&mean), "{mean}");
    // An impossible size is reported, and the text can be corrected.
    driver.type_text("1kB");
    driver.press("Enter");
    driver.expect("no plan is that small: the smallest has 395 kB");
    driver.press("Ctrl-u");
    driver.type_text("small");
    driver.press("Enter");
    driver.expect("invalid size 'small'");
    driver.press("Esc Esc");
    driver.expect("nothing marked");
}

/// The plan line and the budget show the same mean with the same name.
#[test]
fn the_mean_is_one_figure_everywhere() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("b Home");
    let rows = driver.rows();
    let mean = |row: &str| {
        let after = row.split_once("mean ")?.1;
        Some(after.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
    };
    let told: Vec<String> =
        rows.iter().filter_map(|row| mean(row)).filter(|m| m.contains("dB")).collect();
    assert_eq!(told.len(), 2, "{}", driver.screen());
    assert_eq!(told[0], told[1]);
}

/// The marks of GGUF have the sizes that are written, at every point of the curve.
#[test]
fn the_size_shown_for_gguf_is_the_size_written() {
    let mut driver = Driver::open(GGUF);
    choose_target(&mut driver, "llama.cpp");
    driver.press("b Home");
    let Some(Overlay::Budget(budget)) = &driver.app.overlay else { panic!("the budget is open") };
    let last = budget.last();
    for point in 0..last {
        driver.press("Right");
        let Some(Overlay::Budget(budget)) = &driver.app.overlay else { panic!("it is open") };
        assert_eq!(budget.at, last - 1 - point);
        let (chosen, total) = (budget.point().bytes, driver.app.model.totals().after);
        assert_eq!(chosen, total, "{}", driver.screen());
    }
    for steps in [0, last / 2] {
        driver.press("Home");
        (0..steps).for_each(|_| driver.press("Right"));
        driver.press("Enter");
        let shown = driver.app.model.totals().after;
        driver.press("s Ctrl-u");
        driver.type_text(&format!("{steps}.gguf"));
        driver.press("Enter");
        driver.expect("Saved and verified");
        let saved = Checkpoint::open(&driver.path(&format!("{steps}.gguf"))).expect("opens");
        assert_eq!(saved.total_bytes(), shown);
        driver.press("Esc b");
    }
}

/// Without a target, a GGUF is shown as the GGUF that is written of it.
#[test]
fn a_gguf_without_a_target_is_shown_as_it_is_saved() {
    let mut driver = Driver::open(GGUF);
    driver.expect("no target");
    driver.press("a");
    let marked: Vec<_> = driver.app.model.plan().iter().collect();
    let odd = driver.app.model.checkpoint.find("blk.0.odd.weight").expect("there");
    assert!(marked.len() == 5 && driver.app.model.is_marked(odd), "{}", driver.screen());
    driver.press("s Ctrl-u");
    driver.type_text("out.gguf");
    driver.press("Enter");
    driver.expect("Saved and verified");
    // ggml rounds elements by the scale before it becomes F16.
    driver.expect_words("the error of 4 tensors differs from the preview by at most 7.99e-3 dB");
    let saved = Checkpoint::open(&driver.path("out.gguf")).expect("opens");
    for (id, quantizer) in marked {
        let name = &driver.app.model.checkpoint.tensor(id).name;
        let there = saved.find(name).expect("saved");
        let shown = driver.app.model.bytes(id, quantizer.scheme);
        assert_eq!(saved.tensor(there).bytes, shown, "{name}");
    }
}

/// Sizes of the other formats, with the scales as they are stored.
#[test]
fn the_size_shown_is_the_size_written_in_every_format() {
    for target in ["vllm", "mlx", "torchao", "comfyui", "burn"] {
        let mut driver = Driver::open(SHARDED);
        choose_target(&mut driver, target);
        driver.press("a");
        let marked: Vec<_> = driver.app.model.plan().iter().collect();
        assert!(!marked.is_empty(), "{target}");
        let before = driver.app.model.totals();
        driver.press("s Enter");
        driver.expect("Saved and verified");
        let Some(Overlay::Receipt(receipt, _)) = &driver.app.overlay else {
            panic!("{}", driver.screen())
        };
        let out = driver.directory.path().join(&receipt.out);
        let saved = Checkpoint::open(&out).expect("opens");
        let written: u64 = saved.all_stored().map(|(_, stored)| stored.bytes()).sum();
        let markers = written.abs_diff(before.after);
        // ComfyUI's markers and burnpack's alignment are a few bytes for each tensor.
        assert!(markers <= 64 * marked.len() as u64, "{target}: {markers} bytes");
    }
}

#[test]
fn mixes_of_llama_cpp_are_beside_the_curve() {
    let mut driver = Driver::open(GGUF);
    choose_target(&mut driver, "llama.cpp");
    driver.press("b Home");
    driver.expect("× the optimum");
    let Some(Overlay::Budget(budget)) = &driver.app.overlay else { panic!("the budget is open") };
    // The same mixes as those of a dry run.
    let out = driver.path("unused.gguf");
    let out = out.to_str().expect("text");
    let source = in_repository(GGUF);
    let dry = json(&[
        "quantize",
        &source,
        "-o",
        out,
        "--for",
        "llama.cpp",
        "--max-bytes",
        "20kB",
        "--dry-run",
    ]);
    let expected: Vec<(String, u64)> = dry["mixes"]
        .as_array()
        .expect("mixes")
        .iter()
        .map(|mix| {
            (
                mix["name"].as_str().expect("a name").to_owned(),
                mix["bytes"].as_u64().expect("bytes"),
            )
        })
        .collect();
    let found: Vec<(String, u64)> =
        budget.mixes.iter().map(|mix| (mix.mix.to_string(), mix.point.bytes)).collect();
    assert_eq!(found, expected);
    // A mix is a size to go to.
    let wanted = budget.mixes.iter().find(|mix| mix.mix.to_string() == "Q4_K_M").expect("Q4_K_M");
    let bytes = wanted.point.bytes;
    driver.press(":");
    driver.expect("60MB, 50%, 40dB or ");
    driver.type_text("q4_k_m");
    driver.press("Enter");
    driver.expect("◇ Q4_K_M: ");
    assert!(driver.app.model.totals().after <= bytes);
    // Other formats have none.
    driver.press("Esc");
    driver.press("T Home Enter b Home");
    driver.expect_not("the optimum");
}

/// llama.cpp makes rows that no block divides F16. The screen shows that, and saves the same file as
/// the command line.
#[test]
fn rows_that_no_block_divides_become_f16() {
    for budget in [false, true] {
        let mut driver = Driver::open(GGUF);
        choose_target(&mut driver, "llama.cpp");
        let odd = driver.app.model.checkpoint.find("blk.0.odd.weight").expect("there");
        let bytes = driver.app.model.checkpoint.tensor(odd).bytes;
        let row = |driver: &Driver| {
            driver.table().into_iter().find(|row| row.contains("odd")).expect("its row")
        };
        assert!(row(&driver).contains("becomes F16"), "{}", row(&driver));
        driver.press(if budget { "b Home Enter" } else { "a" });
        assert!(driver.app.model.is_marked(odd), "{}", driver.screen());
        assert!(row(&driver).contains("becomes F16"), "{}", row(&driver));
        let shown = driver.app.model.totals().after;
        driver.press("s Ctrl-u");
        driver.type_text("out.gguf");
        driver.press("Enter");
        driver.expect("Saved and verified");
        let path = driver.path("out.gguf");
        let saved = Checkpoint::open(&path).expect("opens");
        let there = saved.tensor(saved.find("blk.0.odd.weight").expect("there"));
        assert_eq!((there.dtype.name(), there.bytes * 2), ("F16", bytes));
        assert_eq!(saved.total_bytes(), shown);
        if !budget {
            let out = driver.path("other.gguf");
            let out = out.to_str().expect("text");
            stdout(&["quantize", &in_repository(GGUF), "-o", out, "--for", "llama.cpp"]);
            let files = [path.to_str().expect("text"), out].map(|path| std::fs::read(path).ok());
            assert!(files[0].is_some() && files[0] == files[1]);
        }
    }
}
