//! The layers of experts of a checkpoint: the error of each expert, and of a layer as a whole.
//!
//! All figures are signal and noise power summed over elements. The SQNR of a layer is that of
//! the elements of all its experts together, not a mean of decibels.

use crate::checkpoint::Checkpoint;
use crate::plan::rules::experts_of;
use crate::quantization::Loss;
use crate::tensor::{TensorId, TensorInfo};
use std::collections::{BTreeMap, HashMap};

/// The layers of experts of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertLayers {
    layers: Vec<ExpertLayer>,
    layer_of: HashMap<TensorId, usize>,
}

/// The experts of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertLayer {
    /// The module path that the experts share.
    pub path: String,
    /// The weights in the checkpoint's order.
    pub tensors: Vec<(TensorId, ExpertPart)>,
}

/// The part of a layer of experts that a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertPart {
    /// A weight of the expert with this number.
    One(u64),
    /// A weight of all experts, which are its slices along axis 0.
    All,
}

/// The measured error of a tensor. The default is that of a tensor that has no error, or is not
/// measured yet: its experts have no figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TensorLoss<'l> {
    /// The loss of all elements.
    pub loss: Option<Loss>,
    /// The loss of each slice of a tensor that holds all experts.
    pub experts: &'l [Loss],
}

impl ExpertPart {
    /// The number of the expert; `None` for all of them.
    pub fn expert(self) -> Option<u64> {
        match self {
            ExpertPart::One(expert) => Some(expert),
            ExpertPart::All => None,
        }
    }
}

/// The errors of a layer's experts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertErrors {
    /// The loss of all experts together.
    pub loss: Loss,
    /// The number of each expert and the loss of all its weights, in order.
    pub experts: Vec<(u64, Loss)>,
    /// Number of experts with a weight whose error is unknown. They are not in `experts`.
    pub unknown: usize,
}

impl ExpertLayers {
    /// Finds the layers by the names and shapes of the weights.
    pub fn of(checkpoint: &Checkpoint) -> ExpertLayers {
        let mut found = ExpertLayers::default();
        let mut known: HashMap<&str, usize> = HashMap::new();
        for id in checkpoint.ids() {
            let Some((path, part)) = part_of(checkpoint.tensor(id)) else { continue };
            let at = *known.entry(path).or_insert_with(|| {
                found.layers.push(ExpertLayer { path: path.to_owned(), tensors: Vec::new() });
                found.layers.len() - 1
            });
            if let Some(layer) = found.layers.get_mut(at) {
                layer.tensors.push((id, part));
                found.layer_of.insert(id, at);
            }
        }
        found
    }

    /// All layers, in the checkpoint's order.
    pub fn all(&self) -> &[ExpertLayer] {
        &self.layers
    }

    /// The layer of a tensor, and the part of it that the tensor holds.
    pub fn layer_of(&self, id: TensorId) -> Option<(&ExpertLayer, ExpertPart)> {
        let layer = self.layers.get(*self.layer_of.get(&id)?)?;
        let part = layer.tensors.iter().find(|(tensor, _)| *tensor == id)?.1;
        Some((layer, part))
    }
}

/// The path of the layer of experts that a weight belongs to, and its part of it.
fn part_of(tensor: &TensorInfo) -> Option<(&str, ExpertPart)> {
    let name: &str = &tensor.name;
    if let Some(path) = experts_of(name) {
        let is_weight = tensor.shape.rank() == 2 && name.ends_with(".weight");
        let number = name.get(path.len() + 1..)?.split('.').next()?;
        let number = number.strip_prefix("expert_").unwrap_or(number).parse();
        return number.ok().filter(|_| is_weight).map(|number| (path, ExpertPart::One(number)));
    }
    tensor.shape.experts()?;
    let mut start = 0;
    for part in name.split('.') {
        let end = start + part.len();
        if part.ends_with("experts") {
            return Some((name.get(..end)?, ExpertPart::All));
        }
        if part.ends_with("_exps") {
            // The weights of a block in GGUF: `blk.0.ffn_up_exps.weight`.
            return Some((name.get(..start.saturating_sub(1))?, ExpertPart::All));
        }
        start = end + 1;
    }
    None
}

impl ExpertLayer {
    /// The errors of the experts. `measured` is asked for the error of each tensor; a tensor for
    /// which it returns `None` does not count. `None` unless an expert has an error.
    pub fn errors<'l>(
        &self,
        measured: impl Fn(TensorId) -> Option<TensorLoss<'l>>,
    ) -> Option<ExpertErrors> {
        // An expert with an unknown part has no figure.
        let mut experts: BTreeMap<u64, Option<Loss>> = BTreeMap::new();
        let mut add = |expert: u64, loss: Option<Loss>| {
            let sum = experts.entry(expert).or_insert_with(|| Some(Loss::default()));
            match (sum.as_mut(), loss) {
                (Some(sum), Some(loss)) => sum.merge(&loss),
                _ => *sum = None,
            }
        };
        for &(id, part) in &self.tensors {
            let Some(TensorLoss { loss, experts }) = measured(id) else { continue };
            match part {
                ExpertPart::One(expert) => add(expert, loss),
                // No expert is complete.
                ExpertPart::All if experts.is_empty() => return None,
                ExpertPart::All => {
                    (0..).zip(experts).for_each(|(expert, &loss)| add(expert, Some(loss)));
                }
            }
        }
        let mut errors = ExpertErrors::default();
        for (expert, loss) in experts {
            match loss {
                Some(loss) => {
                    errors.loss.merge(&loss);
                    errors.experts.push((expert, loss));
                }
                None => errors.unknown += 1,
            }
        }
        (!errors.experts.is_empty()).then_some(errors)
    }
}

impl ExpertErrors {
    /// The SQNR of all experts together in dB.
    pub fn sqnr_db(&self) -> f64 {
        self.loss.sqnr_db()
    }

    /// The SQNR of one expert in dB.
    pub fn sqnr_db_of(&self, expert: u64) -> Option<f64> {
        let (_, loss) = self.experts.iter().find(|(number, _)| *number == expert)?;
        Some(loss.sqnr_db())
    }

    /// The expert with the lowest SQNR (the first if there are several), and the SQNR in dB.
    pub fn worst(&self) -> Option<(u64, f64)> {
        self.ranked().min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The expert with the highest SQNR (the first if there are several), and the SQNR in dB.
    pub fn best(&self) -> Option<(u64, f64)> {
        self.ranked().reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    /// The mean of the experts' SQNRs in dB, without experts that have no noise.
    pub fn mean_db(&self) -> Option<f64> {
        let finite = self.ranked().filter(|(_, db)| db.is_finite());
        let (sum, count) = finite.fold((0.0, 0u32), |(sum, count), (_, db)| (sum + db, count + 1));
        (count > 0).then(|| sum / f64::from(count))
    }

    /// The difference between the best and the worst expert in dB; `None` if it is not finite.
    pub fn spread_db(&self) -> Option<f64> {
        let spread = self.best()?.1 - self.worst()?.1;
        spread.is_finite().then_some(spread)
    }

    /// The place of an expert from 1 for the worst.
    pub fn place_of(&self, expert: u64) -> Option<usize> {
        let db = self.sqnr_db_of(expert)?;
        Some(1 + self.ranked().filter(|(_, other)| *other < db).count())
    }

    /// The SQNRs of the experts. Experts of zeros only, whose SQNR is no number, are left out.
    fn ranked(&self) -> impl Iterator<Item = (u64, f64)> {
        self.experts
            .iter()
            .map(|(expert, loss)| (*expert, loss.sqnr_db()))
            .filter(|(_, db)| !db.is_nan())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{ChannelAxes, DType, Shape};

    fn part(name: &str, dims: &[u64]) -> Option<(String, ExpertPart)> {
        let shape = Shape::new(dims).expect("fits");
        let shape = shape.with_channel_axes(ChannelAxes::for_tensor(name, dims));
        let tensor = TensorInfo { name: name.into(), dtype: DType::F32, shape, bytes: 0 };
        part_of(&tensor).map(|(path, part)| (path.to_owned(), part))
    }

    #[test]
    fn weights_of_experts_are_recognized() {
        let found = |path: &str, part| Some((path.to_owned(), part));
        let one = part("model.layers.3.mlp.experts.12.up_proj.weight", &[4, 8]);
        assert_eq!(one, found("model.layers.3.mlp.experts", ExpertPart::One(12)));
        let switch = part("block.1.mlp.experts.expert_2.wi.weight", &[4, 8]);
        assert_eq!(switch, found("block.1.mlp.experts", ExpertPart::One(2)));
        let fused = part("model.layers.3.mlp.experts.gate_up_proj", &[2, 4, 8]);
        assert_eq!(fused, found("model.layers.3.mlp.experts", ExpertPart::All));
        let gguf = part("blk.7.ffn_down_exps.weight", &[2, 4, 8]);
        assert_eq!(gguf, found("blk.7", ExpertPart::All));
        assert_eq!(part("model.layers.3.mlp.experts.12.up_proj.bias", &[4]), None);
        assert_eq!(part("model.layers.3.mlp.shared_experts.up_proj.weight", &[4, 8]), None);
        assert_eq!(part("model.layers.3.mlp.up_proj.weight", &[4, 8]), None);
    }

    fn layer(parts: &[ExpertPart]) -> ExpertLayer {
        let tensors = (0..).map(TensorId).zip(parts.iter().copied()).collect();
        ExpertLayer { path: "experts".to_owned(), tensors }
    }

    fn loss(noise: f64) -> Loss {
        Loss { signal: 1000.0, noise }
    }

    fn known(noise: f64) -> Option<TensorLoss<'static>> {
        Some(TensorLoss { loss: Some(loss(noise)), experts: &[] })
    }

    #[test]
    fn a_layer_has_the_sqnr_of_all_its_elements() {
        let one = ExpertPart::One;
        // Expert 0 has two weights, and one more is part of a tensor for both.
        let layer = layer(&[one(0), one(0), one(1), ExpertPart::All]);
        let experts = [loss(3.0), loss(10.0)];
        let all = Some(TensorLoss { loss: None, experts: &experts });
        let losses = [known(1.0), known(2.0), known(50.0), all];
        let errors = layer.errors(|id| losses[id.index()]).expect("known");
        let db = |share: f64| 10.0 * share.log10();
        assert_eq!(errors.loss, Loss { signal: 5000.0, noise: 66.0 });
        assert_eq!(errors.sqnr_db(), db(5000.0 / 66.0));
        assert_eq!(errors.worst(), Some((1, db(2000.0 / 60.0))));
        assert_eq!(errors.best(), Some((0, db(3000.0 / 6.0))));
        assert_eq!((errors.place_of(1), errors.place_of(0)), (Some(1), Some(2)));
        let (mean, spread) = (errors.mean_db(), errors.spread_db());
        assert_eq!(mean, Some((db(500.0) + db(2000.0 / 60.0)) / 2.0));
        assert_eq!(spread, Some(db(500.0) - db(2000.0 / 60.0)));
    }

    #[test]
    fn experts_with_an_unknown_weight_have_no_figures() {
        let one = ExpertPart::One;
        let layer = layer(&[one(0), one(1), one(1), one(2)]);
        let losses = [known(1.0), known(2.0), Some(TensorLoss::default()), None];
        let errors = layer.errors(|id| losses[id.index()]).expect("known");
        assert_eq!(errors.experts, [(0, Loss { signal: 1000.0, noise: 1.0 })]);
        assert_eq!((errors.unknown, errors.sqnr_db()), (1, 30.0));
        assert_eq!(layer.errors(|_| None), None);
    }
}
