//! The forward pass of the demo network in f32, to measure accuracy in digits.
//!
//! Layers and names are those of `assets/train_demo.py`. The code is simple rather than fast.

/// Returns a tensor of the network by name, row-major.
pub(crate) type Tensors<'a> = dyn Fn(&str) -> Vec<f32> + 'a;

const SIDE: usize = 8;
const PIXELS: usize = SIDE * SIDE;
/// Pixels are 0..=16, but the network was trained on 0..=1.
const BRIGHTEST: f32 = 16.0;
const CLASSES: usize = 10;
/// The default of `torch.nn.BatchNorm2d`.
const EPSILON: f32 = 1e-5;

/// The share of `images` (8x8 pixels each) that the network with these tensors classifies as
/// their `labels`.
pub(crate) fn accuracy(tensors: &Tensors, images: &[u8], labels: &[u8]) -> f64 {
    assert_eq!(images.len(), labels.len() * PIXELS);
    let network = Network::new(tensors);
    let correct = images
        .chunks_exact(PIXELS)
        .zip(labels)
        .filter(|(image, label)| network.read(image) == usize::from(**label))
        .count();
    correct as f64 / labels.len() as f64
}

/// The network with all of its tensors.
struct Network {
    convolutions: Vec<Convolution>,
    linears: Vec<Linear>,
}

impl Network {
    fn new(tensors: &Tensors) -> Self {
        let convolution = |index: usize, inputs, outputs, groups, kernel, pool| Convolution {
            inputs,
            outputs,
            groups,
            kernel,
            weight: tensors(&format!("features.{index}.weight")),
            norm: BatchNorm::new(tensors, &format!("features.{}", index + 1)),
            pool,
        };
        let linear = |index: usize, inputs, outputs| Linear {
            inputs,
            outputs,
            weight: tensors(&format!("classifier.{index}.weight")),
            bias: tensors(&format!("classifier.{index}.bias")),
        };
        Self {
            convolutions: vec![
                convolution(0, 1, 8, 1, 3, false),
                convolution(3, 8, 8, 8, 3, false),
                convolution(6, 8, 24, 1, 1, true),
                convolution(10, 24, 24, 24, 3, false),
                convolution(13, 24, 32, 1, 1, true),
            ],
            linears: vec![linear(0, 128, 64), linear(2, 64, 16), linear(4, 16, CLASSES)],
        }
    }

    /// Classifies an image.
    fn read(&self, image: &[u8]) -> usize {
        argmax(&self.logits(image))
    }

    fn logits(&self, image: &[u8]) -> Vec<f32> {
        let mut x: Vec<f32> = image.iter().map(|&p| f32::from(p) / BRIGHTEST).collect();
        let mut side = SIDE;
        for layer in &self.convolutions {
            x = layer.forward(&x, side);
            relu(&mut x);
            if layer.pool {
                x = max_pool(&x, side);
                side /= 2;
            }
        }
        let (last, hidden) = self.linears.split_last().expect("the network has layers");
        for layer in hidden {
            x = layer.forward(&x);
            relu(&mut x);
        }
        last.forward(&x)
    }
}

/// A convolution without bias over a square image, with zero padding that keeps the size, and the
/// batch norm after it.
struct Convolution {
    inputs: usize,
    outputs: usize,
    groups: usize,
    /// The side of the kernel, an odd number.
    kernel: usize,
    /// [outputs, inputs / groups, kernel, kernel]
    weight: Vec<f32>,
    norm: BatchNorm,
    /// Whether a 2x2 max-pool follows.
    pool: bool,
}

impl Convolution {
    /// [inputs, side, side] to [outputs, side, side]
    fn forward(&self, x: &[f32], side: usize) -> Vec<f32> {
        let inputs_per_group = self.inputs / self.groups;
        let outputs_per_group = self.outputs / self.groups;
        let area = side * side;
        let kernel_area = self.kernel * self.kernel;
        assert_eq!(x.len(), self.inputs * area);
        assert_eq!(self.weight.len(), self.outputs * inputs_per_group * kernel_area);

        let border = self.kernel / 2;
        let width = side + 2 * border;
        let mut sums = vec![0.0; width * width];
        let mut y = Vec::with_capacity(self.outputs * area);
        let filters = self.weight.chunks_exact(inputs_per_group * kernel_area);
        for (output, filter) in filters.enumerate() {
            sums.fill(0.0);
            let first_input = output / outputs_per_group * inputs_per_group;
            let planes = x[first_input * area..].chunks_exact(area);
            for (kernel, plane) in filter.chunks_exact(kernel_area).zip(planes) {
                correlate(&mut sums, plane, kernel, side, self.kernel);
            }
            for row in sums.chunks_exact(width).skip(border).take(side) {
                let row = &row[border..][..side];
                y.extend(row.iter().map(|sum| self.norm.apply(output, *sum)));
            }
        }
        y
    }
}

/// Adds the correlation of `plane` (`side` by `side`) with `kernel` (`size` by `size`) to `sums`.
/// `sums` has a border of `size / 2`, which the caller ignores.
fn correlate(sums: &mut [f32], plane: &[f32], kernel: &[f32], side: usize, size: usize) {
    let width = side + size - 1;
    // Most pixels are zero after a ReLU, so only the others are distributed.
    for (at, &pixel) in plane.iter().enumerate().filter(|(_, pixel)| **pixel != 0.0) {
        let corner = at / side * width + at % side;
        for (row, weights) in kernel.chunks_exact(size).rev().enumerate() {
            let sums = &mut sums[corner + row * width..][..size];
            for (sum, weight) in sums.iter_mut().zip(weights.iter().rev()) {
                *sum += weight * pixel;
            }
        }
    }
}

/// Batch norm with the statistics from training, per channel.
struct BatchNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl BatchNorm {
    fn new(tensors: &Tensors, module: &str) -> Self {
        Self {
            weight: tensors(&format!("{module}.weight")),
            bias: tensors(&format!("{module}.bias")),
            mean: tensors(&format!("{module}.running_mean")),
            variance: tensors(&format!("{module}.running_var")),
        }
    }

    fn apply(&self, channel: usize, x: f32) -> f32 {
        (x - self.mean[channel]) / (self.variance[channel] + EPSILON).sqrt() * self.weight[channel]
            + self.bias[channel]
    }
}

struct Linear {
    inputs: usize,
    outputs: usize,
    /// [outputs, inputs]
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Linear {
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len(), self.inputs);
        assert_eq!(self.weight.len(), self.outputs * self.inputs);
        self.weight
            .chunks_exact(self.inputs)
            .zip(&self.bias)
            .map(|(row, bias)| bias + row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>())
            .collect()
    }
}

fn relu(x: &mut [f32]) {
    for x in x {
        *x = x.max(0.0);
    }
}

/// [channels, side, side] to [channels, side / 2, side / 2]
fn max_pool(x: &[f32], side: usize) -> Vec<f32> {
    let half = side / 2;
    let pooled = |plane: &[f32], at: usize| {
        let corner = at / half * 2 * side + at % half * 2;
        plane[corner].max(plane[corner + 1]).max(plane[corner + side]).max(plane[corner + side + 1])
    };
    x.chunks_exact(side * side)
        .flat_map(|plane| (0..half * half).map(move |at| pooled(plane, at)))
        .collect()
}

/// The index of the largest value, the first one if several are equal, as in PyTorch.
fn argmax(x: &[f32]) -> usize {
    (1..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best })
}
