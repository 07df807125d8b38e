//! Changing a plan so that its target can load it.

use crate::checkpoint::Checkpoint;
use crate::plan::defaults::effective_quantizer;
use crate::plan::inputs::InputQuantization;
use crate::plan::marks::Plan;
use crate::plan::rules::eligibility::{Eligibility, Reason};
use crate::plan::rules::rules::TargetRules;
use crate::plan::schemes::{dividing_block, fitting_presets};
use crate::plan::target::{Container, LinearScheme};
use crate::quantization::{Preset, QuantizationScheme, Quantizer, Rounding};
use crate::tensor::{FloatType, TensorId};
use crate::text::figures::counted;
use std::collections::BTreeSet;

/// A plan changed for a target.
#[derive(Clone, Debug, PartialEq)]
pub struct FittedPlan {
    /// The plan that fits.
    pub plan: Plan,
    /// The changes, as parts of a sentence that start with a verb: `unmark …`. Empty if nothing
    /// was changed.
    pub changes: Vec<String>,
}

impl FittedPlan {
    /// Returns the changes in the past tense.
    pub fn done(&self) -> Vec<String> {
        let verbs = [("unmark ", "unmarked "), ("mark ", "marked "), ("make ", "made ")];
        let done = |change: &String| {
            let verb = verbs.iter().find(|(verb, _)| change.starts_with(verb));
            verb.map_or(change.clone(), |(verb, done)| change.replacen(verb, done, 1))
        };
        self.changes.iter().map(done).collect()
    }
}

impl TargetRules {
    /// Returns the schemes that a mark may have, smallest first: those that the format stores
    /// and that no loader of the target refuses.
    pub fn schemes(&self, checkpoint: &Checkpoint) -> Vec<QuantizationScheme> {
        let container = self.target().container();
        let is_presets = container == Container::CompressedTensors(LinearScheme::Presets);
        if self.target().loaders().is_empty() && !is_presets {
            return container.schemes();
        }
        let by_default =
            |id: &TensorId| self.eligibility(checkpoint, *id) == Eligibility::ByDefault;
        let tensors: Vec<TensorId> = checkpoint.ids().filter(by_default).collect();
        let stored = if is_presets {
            let shapes = tensors.iter().map(|&id| &checkpoint.tensor(id).shape);
            fitting_presets(&shapes.collect::<Vec<_>>())
        } else {
            container.schemes()
        };
        if self.target().loaders().is_empty() {
            return stored;
        }
        let refusals = |&scheme: &QuantizationScheme| -> BTreeSet<String> {
            let plan = Plan::uniform(tensors.iter().copied(), scheme, Rounding::default());
            self.review(checkpoint, &plan).refusals.into_iter().collect()
        };
        let refused: Vec<BTreeSet<String>> = stored.iter().map(refusals).collect();
        // Refusals that every scheme meets do not depend on the scheme.
        let fewest = refused.iter().map(BTreeSet::len).min().unwrap_or_default();
        let allowed =
            stored.into_iter().zip(refused).filter(|(_, refusals)| refusals.len() == fewest);
        allowed.map(|(scheme, _)| scheme).collect()
    }

    /// Returns the scheme for `tensors` if the user chose none: the largest block that divides
    /// every row, else the block that divides most, else one scale per channel, else the
    /// smallest allowed scheme.
    pub fn preferred_scheme(
        &self,
        checkpoint: &Checkpoint,
        allowed: &[QuantizationScheme],
        tensors: &[TensorId],
    ) -> Option<QuantizationScheme> {
        let shapes: Vec<_> = tensors.iter().map(|&id| &checkpoint.tensor(id).shape).collect();
        let channel =
            || allowed.iter().copied().find(|scheme| *scheme == QuantizationScheme::PER_CHANNEL);
        let block = dividing_block(&shapes, allowed.iter().copied());
        block.or_else(channel).or(allowed.first().copied())
    }

    /// Returns the plan with the changes that this target needs. Marks that it cannot hold are
    /// removed, schemes that it cannot store are replaced, and fusion units that load only as a
    /// whole are completed. Marks that fit keep their quantizer.
    pub fn fit(&self, checkpoint: &Checkpoint, plan: &Plan) -> FittedPlan {
        let mut fitted = FittedPlan { plan: plan.clone(), changes: Vec::new() };
        fitted.plan.target = self.target().clone();
        let has_fp8 = plan.iter().any(|(_, q)| q.scheme == QuantizationScheme::Preset(Preset::Fp8));
        let has_inputs = match self.target().container() {
            Container::CompressedTensors(LinearScheme::W8A8) => true,
            Container::CompressedTensors(LinearScheme::Presets) => has_fp8,
            _ => false,
        };
        if !has_inputs {
            fitted.plan.inputs = InputQuantization::Dynamic;
        }
        self.unmark_impossible(checkpoint, &mut fitted);
        self.complete_units(checkpoint, &mut fitted);
        self.replace_schemes(checkpoint, &mut fitted);
        self.unmark_undivided(checkpoint, &mut fitted);
        fitted
    }

    fn unmark_impossible(&self, checkpoint: &Checkpoint, fitted: &mut FittedPlan) {
        let mut never: Vec<(TensorId, Reason)> = Vec::new();
        for (id, _) in fitted.plan.iter() {
            if let Eligibility::Never(reason) = self.eligibility(checkpoint, id) {
                never.push((id, reason));
            }
        }
        never.iter().for_each(|(id, _)| fitted.plan.unmark(*id));
        if let Some((first, reason)) = never.first() {
            let name = checkpoint.tensor(*first).name.escape_debug();
            fitted.changes.push(match never.len() {
                1 => format!("unmark {name}: {reason}"),
                n => format!("unmark {n} tensors, the first {name}: {reason}"),
            });
        }
    }

    /// Removes marks whose scheme does not divide the tensor, and the rest of their units.
    fn unmark_undivided(&self, checkpoint: &Checkpoint, fitted: &mut FittedPlan) {
        let container = self.target().container();
        // llama.cpp makes them F16.
        let becomes_f16 = |id: TensorId, quantizer: Quantizer| {
            let float = checkpoint.tensor(id).dtype.float();
            let is_other_float = float.is_some_and(|float| float != FloatType::F16);
            container == Container::Gguf && quantizer.scheme.ggml().is_some() && is_other_float
        };
        let undivided: Vec<(TensorId, String)> = fitted
            .plan
            .iter()
            .filter(|&(id, quantizer)| !becomes_f16(id, quantizer))
            .filter_map(|(id, quantizer)| {
                let shape = &checkpoint.tensor(id).shape;
                Some((id, container.scheme_obstacle(quantizer.scheme, shape)?))
            })
            .collect();
        let Some((first, why)) = undivided.first() else { return };
        let with_rest: BTreeSet<TensorId> =
            undivided.iter().flat_map(|(id, _)| self.units().with_rest(*id)).collect();
        with_rest.iter().for_each(|&id| fitted.plan.unmark(id));
        let name = checkpoint.tensor(*first).name.escape_debug();
        fitted.changes.push(match with_rest.len() {
            1 => format!("unmark {name}: {why}"),
            n => format!("unmark {n} tensors, the first {name}: {why}"),
        });
    }

    /// Marks the rest of each unit that is marked in part, if that removes a refusal.
    fn complete_units(&self, checkpoint: &Checkpoint, fitted: &mut FittedPlan) {
        let before = &fitted.plan;
        let mut whole = before.clone();
        let (mut added, mut removed) = (0, 0);
        for unit in self.units().split_in(before) {
            let Some(quantizer) = unit.tensors.iter().find_map(|&id| before.get(id)) else {
                continue;
            };
            let never = |id| matches!(self.eligibility(checkpoint, id), Eligibility::Never(_));
            let possible = !unit.tensors.iter().any(|&id| never(id));
            for &id in &unit.tensors {
                match (possible, before.is_marked(id)) {
                    (true, false) => {
                        whole.mark(id, effective_quantizer(checkpoint, id, quantizer));
                        added += 1;
                    }
                    (false, true) => {
                        whole.unmark(id);
                        removed += 1;
                    }
                    _ => {}
                }
            }
        }
        let refusals = |plan: &Plan| self.review(checkpoint, plan).refusals.len();
        if added + removed == 0 || refusals(&whole) >= refusals(before) {
            return;
        }
        fitted.plan = whole;
        if added > 0 {
            let tensors = counted(added, "tensor");
            fitted
                .changes
                .push(format!("mark {tensors} that are loaded together with marked ones"));
        }
        if removed > 0 {
            let tensors = counted(removed, "tensor");
            fitted.changes.push(format!("unmark {tensors} that are loaded only as a whole"));
        }
    }

    fn replace_schemes(&self, checkpoint: &Checkpoint, fitted: &mut FittedPlan) {
        let container = self.target().container();
        let allowed = self.schemes(checkpoint);
        let fits = |scheme: QuantizationScheme| {
            // Groups and blocks of other sizes than those offered.
            let is_sized = matches!(scheme, QuantizationScheme::PerBlock(..))
                || scheme.preset().is_some_and(|preset| {
                    allowed.iter().filter_map(|s| s.preset()).any(|p| p.name() == preset.name())
                });
            allowed.contains(&scheme) || is_sized && container.can_store(scheme)
        };
        let marks: Vec<(TensorId, Quantizer)> = fitted.plan.iter().collect();
        let first = marks.first().map(|(_, quantizer)| quantizer.scheme);
        let differ = marks.iter().any(|(_, quantizer)| Some(quantizer.scheme) != first);
        let all = container.has_one_scheme() && differ;
        let change = |quantizer: &Quantizer| all || !fits(quantizer.scheme);
        let tensors: Vec<TensorId> =
            marks.iter().filter(|(_, quantizer)| change(quantizer)).map(|(id, _)| *id).collect();
        if tensors.is_empty() {
            return;
        }
        // The plan's most frequent scheme, if all marks can have it.
        let mut counts: Vec<(QuantizationScheme, usize)> = Vec::new();
        for (_, Quantizer { scheme, .. }) in marks.iter().filter(|(_, q)| all && fits(q.scheme)) {
            match counts.iter_mut().find(|(known, _)| known == scheme) {
                Some((_, count)) => *count += 1,
                None => counts.push((*scheme, 1)),
            }
        }
        let common = counts.into_iter().max_by_key(|(_, count)| *count).map(|(scheme, _)| scheme);
        let preferred = || self.preferred_scheme(checkpoint, &allowed, &tensors);
        let Some(scheme) = common.or_else(preferred) else { return };
        let mut changed = 0;
        for (id, before) in marks.iter().filter(|(id, _)| tensors.binary_search(id).is_ok()) {
            let quantizer = effective_quantizer(checkpoint, *id, Quantizer { scheme, ..*before });
            changed += usize::from(quantizer != *before);
            fitted.plan.mark(*id, quantizer);
        }
        let text = match (all || changed == marks.len(), marks.len()) {
            (true, 1) => "make the mark".to_owned(),
            (true, n) => format!("make all {}", counted(n, "mark")),
            (false, _) => format!("make {}", counted(changed, "mark")),
        };
        fitted.changes.push(format!("{text} {}", scheme.to_string().replace('-', " ")));
    }
}
