//! The functions behind the fuzz targets. For any input, quantscope reads correctly or returns an
//! error, in bounded memory, and no input reaches the terminal as a control sequence.

use quantscope::activations::Activations;
use quantscope::app::keys::Key;
use quantscope::app::{App, Event, update};
use quantscope::checkpoint::formats::safetensors::header_bytes;
use quantscope::checkpoint::{Checkpoint, ReadError};
use quantscope::text::names::visible;
use quantscope::plan::{Selection, obstacle, recipe as recipes};
use quantscope::tensor::{DType, Shape};
use quantscope::ui::{self, Colours, Theme};
use quantscope::job::JobEvent;
use quantscope::job::cache::Cache;
use quantscope::job::scan::{self, Order};
use quantscope::quantization::{
    Calibration, QuantizationScheme, Quantizer, AnalysisSpec, Rounding,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::Size;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

/// The number of elements read from each end of every tensor.
const ENDS: u64 = 70;
/// The maximum number of tensors read in one input.
const TENSORS: usize = 200;

/// Opens bytes as a file with this name, and reads its tensors.
pub fn open(name: &str, data: &[u8]) {
    // SAFETY: only the checkpoint keeps the bytes, and it is dropped before they are: `explore`
    // waits for every job it starts.
    let forever: &'static [u8] = unsafe { std::slice::from_raw_parts(data.as_ptr(), data.len()) };
    explore(Checkpoint::from_memory(name, forever), data.len() as u64);
}

/// Reads everything in an open checkpoint, or checks the error.
fn explore(opened: Result<Checkpoint, ReadError>, length: u64) {
    let checkpoint = match opened {
        Ok(checkpoint) => Arc::new(checkpoint),
        Err(error) => return sentence(&error.to_string()),
    };
    for (_, stored) in checkpoint.all_stored() {
        assert!(stored.range.start <= stored.range.end && stored.range.end <= length);
    }
    let mut reader = checkpoint.reader();
    for id in checkpoint.ids().take(TENSORS) {
        let info = checkpoint.tensor(id);
        let count = info.parameters();
        let _ = obstacle(&checkpoint, id).map(|why| why.to_string());
        if let Some(layout) = checkpoint.packed_format(id) {
            assert!(!layout.name().is_empty() && !layout.parts().is_empty());
        }
        for range in [0..count.min(ENDS), count.saturating_sub(ENDS)..count] {
            let wanted = (range.end - range.start) as usize;
            match reader.elements(id, range) {
                Ok(Some((dtype, bytes))) => assert_eq!(bytes.len(), wanted * dtype.size()),
                Ok(None) => assert_eq!(checkpoint.float_type(id), None),
                Err(error) => sentence(&error.to_string()),
            }
        }
    }
    drop(reader);
    screen(&checkpoint);
}

/// Asserts that an error is not empty and contains no control sequences when printed.
fn sentence(text: &str) {
    assert!(text.len() > 10, "{text:?}");
    harmless(&visible(text));
}

fn harmless(text: &str) {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.contains(hostile), "{text:?}");
}

/// Draws the first screen.
fn screen(checkpoint: &Arc<Checkpoint>) {
    let size = Size::new(100, 24);
    let mut app = App::new(checkpoint.clone());
    let viewport = ui::layout::viewport(size, &app);
    update(&mut app, Event::Resized(viewport));
    draw(&app, size);
}

fn draw(app: &App, size: Size) {
    let mut terminal = Terminal::new(TestBackend::new(size.width, size.height)).expect("a backend");
    let theme = Theme::new(Colours::True);
    terminal.draw(|frame| ui::draw(frame, app, &theme)).expect("draws");
    for cell in terminal.backend().buffer().content() {
        harmless(cell.symbol());
    }
}

/// A directory that is refilled for each input, in memory if possible.
fn directory() -> PathBuf {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        tempfile::tempdir_in(place).expect("a directory").keep()
    });
    DIRECTORY.clone()
}

fn place(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("named")).expect("a directory");
    std::fs::write(path, bytes).expect("writes");
}

fn small(names: &[&str]) -> Vec<u8> {
    let shape = Shape::vector(4);
    let mut bytes = header_bytes(&[], names.iter().map(|&name| (name, &DType::U8, &shape, 4)));
    bytes.resize(bytes.len() + 4 * names.len(), 7);
    bytes
}

pub fn index(data: &[u8]) {
    let model = directory().join("model");
    static READY: std::sync::Once = std::sync::Once::new();
    READY.call_once(|| {
        place(&model.join("a.safetensors"), &small(&["x", "y"]));
        place(&model.join("b.safetensors"), &small(&["z"]));
        place(&model.join("in/c.safetensors"), &small(&["w"]));
        place(&directory().join("outside.safetensors"), &small(&["secret"]));
    });
    let path = model.join("model.safetensors.index.json");
    place(&path, data);
    let opened = Checkpoint::open(&path);
    if let Ok(checkpoint) = &opened {
        for shard in checkpoint.shards() {
            let real = shard.source.path().canonicalize().expect("was opened");
            assert!(real.starts_with(model.canonicalize().expect("is there")), "{real:?}");
        }
        assert!(checkpoint.find("secret").is_none());
    }
    explore(opened, u64::MAX);
}

const QUANTIZED: [&[u8]; 9] = [
    include_bytes!("../../data/formats/awq-gemm/model.safetensors"),
    include_bytes!("../../data/formats/bnb-nf4/model.safetensors"),
    include_bytes!("../../data/formats/ct-int8-channel/model.safetensors"),
    include_bytes!("../../data/formats/ct-pack8-channel/model.safetensors"),
    include_bytes!("../../data/formats/fp8-block-deepseek/model.safetensors"),
    include_bytes!("../../data/formats/fp8-tensor/model.safetensors"),
    include_bytes!("../../data/formats/gptq-4bit-actorder/model.safetensors"),
    include_bytes!("../../data/formats/mlx-4bit/model.safetensors"),
    include_bytes!("../../data/formats/mxfp4-gpt-oss/model.safetensors"),
];

pub fn config(data: &[u8]) {
    let Some((&which, json)) = data.split_first() else { return };
    let which = usize::from(which) % QUANTIZED.len();
    let model = directory().join(format!("config-{which}"));
    let file = model.join("model.safetensors");
    if !file.is_file() {
        place(&file, QUANTIZED[which]);
    }
    place(&model.join("config.json"), json);
    explore(Checkpoint::open(&file), u64::MAX);
}

/// Name endings by which packed formats are recognised.
const ENDINGS: [&str; 40] = [
    "weight",
    "weight_scale",
    "weight_scale_inv",
    "weight_packed",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "weight_global_scale",
    "weight_scale_2",
    "input_scale",
    "input_global_scale",
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "biases",
    "bias",
    "weight.absmax",
    "weight.quant_map",
    "weight.quant_state.bitsandbytes__nf4",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    "SCB",
    "weight_format",
    "weight._data",
    "weight._scale",
    "gate_up_proj_blocks",
    "gate_up_proj_scales",
    "gate_up_proj",
    "gate_up_proj_scale_inv",
    "q_weight",
    "W_q",
    "meta",
    "scale_weight",
    "output_scale",
    "weight.quant_state.bitsandbytes__fp4",
    "weight._shift",
    "weight_scale_scale",
    "scale",
    "",
];
const DIMS: [u64; 16] = [0, 1, 2, 3, 4, 5, 7, 8, 16, 17, 32, 33, 64, 100, 128, 256];
const LARGEST: u64 = 1 << 16;

pub fn layout(data: &[u8]) {
    let end = data.iter().position(|&b| b == 0).unwrap_or(data.len());
    let (config, rest) = data.split_at(end);
    let mut rest = rest.iter().skip(1).copied();
    let mut tensors: Vec<(String, DType, Shape, u64)> = Vec::new();
    while let (Some(name), Some(dtype), Some(rank)) = (rest.next(), rest.next(), rest.next()) {
        let module = ["m.", "n.", ""][usize::from(name >> 6) % 3];
        let name = format!("{module}{}", ENDINGS[usize::from(name & 63) % ENDINGS.len()]);
        let dtype = DType::ALL[usize::from(dtype) % DType::ALL.len()].clone();
        let dims: Vec<u64> =
            (0..rank % 5).filter_map(|_| Some(DIMS[usize::from(rest.next()?) % 16])).collect();
        let Some(shape) = Shape::new(dims) else { continue };
        let Some(bytes) = dtype.bytes_for(shape.elements()) else { continue };
        if bytes <= LARGEST && tensors.len() < 16 && tensors.iter().all(|t| t.0 != name) {
            tensors.push((name, dtype, shape, bytes));
        }
    }
    let model = directory().join("layout");
    let listed = tensors.iter().map(|(name, dtype, shape, n)| (name.as_str(), dtype, shape, *n));
    let mut file = header_bytes(&[], listed);
    let length = file.len() + tensors.iter().map(|t| t.3 as usize).sum::<usize>();
    // The elements repeat the input, so that the fuzzer controls them too.
    file.extend(data.iter().copied().cycle().take(length - file.len()));
    file.resize(length, 0);
    place(&model.join("model.safetensors"), &file);
    match config {
        [] => _ = std::fs::remove_file(model.join("config.json")),
        json => place(&model.join("config.json"), json),
    }
    explore(Checkpoint::open(&model.join("model.safetensors")), length as u64);
}

fn demo() -> &'static Checkpoint {
    static DEMO: LazyLock<Checkpoint> =
        LazyLock::new(|| quantscope::demo::open_model(Path::new("demo:")).expect("is built in"));
    &DEMO
}

pub fn recipe(text: &str) {
    match recipes::from_toml(Path::new("r.toml"), text, demo()) {
        Ok(plan) => {
            let again = recipes::to_toml(&plan, demo());
            let back = recipes::from_toml(Path::new("r.toml"), &again, demo());
            assert_eq!(back.expect("what is written is read"), plan);
        }
        Err(error) => sentence(&error.to_string()),
    }
}

/// Tensors with unusual names and two elements each.
fn odd_names() -> Arc<Checkpoint> {
    static ODD: LazyLock<Arc<Checkpoint>> = LazyLock::new(|| {
        let names = ["", "层.权重", "a\n\u{1b}[2J", "\u{202e}b", "İstanbul ß", "e\u{301}\u{301}"];
        let mut names: Vec<&str> = names.to_vec();
        names.extend(demo().tensors().iter().map(|tensor| tensor.name.as_str()));
        let shape = Shape::vector(2);
        let listed = names.iter().map(|&name| (name, &DType::F16, &shape, 4));
        let mut bytes = header_bytes(&[], listed);
        bytes.resize(bytes.len() + 4 * names.len(), 0x3c);
        Arc::new(Checkpoint::from_memory("odd.safetensors", bytes.leak()).expect("is well formed"))
    });
    ODD.clone()
}

/// Uses the text as a filter on the screen and as a pattern of the command line.
pub fn filter(text: &str) {
    let mut app = App::new(odd_names());
    let size = Size::new(100, 24);
    let viewport = ui::layout::viewport(size, &app);
    update(&mut app, Event::Resized(viewport));
    update(&mut app, Event::Key(Key::Char('/')));
    text.chars().for_each(|c| _ = update(&mut app, Event::Key(Key::Char(c))));
    draw(&app, size);
    update(&mut app, Event::Key(Key::Enter));
    draw(&app, size);
    let chosen = Selection { include: vec![text.to_owned()], exclude: Vec::new() };
    if let Err(error) = chosen.resolve(demo()) {
        sentence(&error.to_string());
    }
}

/// A model with an old modification time, and its cache file.
struct Kept {
    checkpoint: Arc<Checkpoint>,
    directory: PathBuf,
    entry: PathBuf,
    /// The bytes before the first record.
    head: Vec<u8>,
}

impl Kept {
    fn new() -> Kept {
        let home = directory().join("cache");
        let (model, directory) = (home.join("model.safetensors"), home.join("findings"));
        let shape = Shape::new(&[2, 40]).expect("fits");
        let names = ["a", "b"];
        let mut bytes = header_bytes(&[], names.iter().map(|&name| (name, &DType::BF16, &shape, 160)));
        bytes.extend((0..320u32).map(|i| (i * 7 % 61) as u8));
        place(&model, &bytes);
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let file = File::options().append(true).open(&model).expect("opens");
        file.set_modified(long_ago).expect("sets the time");
        let checkpoint = Arc::new(Checkpoint::open(&model).expect("opens"));
        let mut kept = Kept { checkpoint, directory, entry: PathBuf::new(), head: Vec::new() };
        kept.scan();
        let mut entries = std::fs::read_dir(&kept.directory).expect("a directory");
        kept.entry = entries.next().expect("an entry").expect("readable").path();
        kept.head = std::fs::read(&kept.entry).expect("reads");
        // The magic, the version, and the key with its length.
        let length = kept.head.get(24..28).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
        kept.head.truncate(28 + length.expect("a length") as usize);
        kept
    }

    fn scan(&self) -> Vec<scan::Finding> {
        let schemes = [QuantizationScheme::PER_TENSOR, QuantizationScheme::per_block(32)];
        let quantizer = |scheme| Quantizer { calibration: Calibration::MinMax, scheme };
        let spec = AnalysisSpec {
            histogram: true,
            ..AnalysisSpec::errors(schemes.map(quantizer).to_vec(), Rounding::HalfEven)
        };
        let order = Arc::new(Order::new(self.checkpoint.ids().collect()));
        let cache = Some(Cache::at(self.directory.clone()));
        let job = scan::start(self.checkpoint.clone(), spec, order, Some(1), cache);
        let mut job = job.expect("starts");
        let mut found = Vec::new();
        while let JobEvent::Finding(finding) = job.wait(Duration::from_secs(10)) {
            found.push(finding);
        }
        found
    }
}

/// Writes the input as a record of the cache file, scans, and reads the results.
pub fn cache(data: &[u8]) {
    static KEPT: LazyLock<Kept> = LazyLock::new(Kept::new);
    let kept = &*KEPT;
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    let length = (data.len() as u32).to_le_bytes();
    let file = [&kept.head[..], &length, &hasher.finish().to_le_bytes(), data].concat();
    std::fs::write(&kept.entry, file).expect("writes");
    let found = kept.scan();
    assert_eq!(found.len(), 2, "each tensor once");
    let mut app = App::new(kept.checkpoint.clone());
    let size = Size::new(100, 24);
    let viewport = ui::layout::viewport(size, &app);
    update(&mut app, Event::Resized(viewport));
    for (tensor, found) in found {
        update(&mut app, Event::Analyzed { generation: 0, tensor, found });
    }
    for tab in ['1', '2', '3', '4'] {
        update(&mut app, Event::Key(Key::Char(tab)));
        draw(&app, size);
    }
}

/// Opens the input as captured activations of the demo. The first byte selects safetensors or one
/// of llama.cpp's two formats of importance matrices.
pub fn activations(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let name = ["captures.safetensors", "matrix.dat", "matrix.gguf"][usize::from(kind % 3)];
    let path = directory().join(name);
    place(&path, data);
    match Activations::open(&[path], demo()) {
        Ok(opened) => assert!(format!("{opened:?}").len() > 10),
        Err(error) => sentence(&error.to_string()),
    }
}
