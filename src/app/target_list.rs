//! The list of targets: the programs that can load the output.

use crate::app::formats::FormatFit;
use crate::checkpoint::Format;
use crate::plan::target::{Container, LinearScheme, Loader, Target};

/// A row of the list.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetChoice {
    /// The name in the list.
    pub name: &'static str,
    /// What it is, in a few words.
    pub summary: &'static str,
    /// The loader; `None` for a format that is chosen without a loader.
    pub loader: Option<Loader>,
    /// The target, or why this model cannot be saved for it.
    pub target: Result<Target, String>,
}

/// The targets to choose from. Several loaders can be chosen together.
#[derive(Debug)]
pub struct TargetList {
    /// The targets.
    pub choices: Vec<TargetChoice>,
    /// The target under the cursor.
    pub chosen: usize,
    /// The loaders that are ticked.
    pub loaders: Vec<Loader>,
    /// Which scheme of compressed-tensors the rows show.
    pub scheme: LinearScheme,
    source: Format,
}

impl TargetList {
    /// The list with the cursor on the current target. `formats` says which formats this checkpoint
    /// can be saved in.
    pub fn new(now: &Target, source: Format, formats: &[FormatFit]) -> TargetList {
        let scheme = match now.container() {
            Container::CompressedTensors(scheme) => scheme,
            _ => LinearScheme::default(),
        };
        let fits = |target: Target| {
            let container = target.container();
            let known = formats.iter().find(|fit| fit.container == container);
            match known.map(|fit| &fit.format) {
                Some(Err(why)) => Err(why.clone()),
                _ => Ok(target),
            }
        };
        let by_loader = Loader::ALL.into_iter().map(|loader| TargetChoice {
            name: loader.name(),
            summary: loader.summary(),
            loader: Some(loader),
            target: Target::for_loaders(&[loader], source)
                .map_err(|why| why.to_string())
                .and_then(fits),
        });
        let by_format = |name, summary, container: Container| TargetChoice {
            name,
            summary,
            loader: None,
            target: fits(Target::format(container)),
        };
        let linear = Container::CompressedTensors(LinearScheme::default());
        let mut choices = vec![by_format(
            "no loader",
            "quantscope, or code that reads the scales",
            Container::Safetensors,
        )];
        choices.extend(by_loader);
        choices.push(by_format(
            "compressed-tensors",
            "the format, for no loader in particular",
            linear,
        ));
        choices.push(by_format(
            "fake-quantized",
            "floats rounded to int8, for evaluation",
            Container::FakeQuantized,
        ));
        let loaders = now.loaders().to_vec();
        let is_now = |choice: &TargetChoice| match (choice.loader, loaders.first()) {
            (Some(loader), Some(first)) => loader == *first,
            (None, None) => choice
                .target
                .as_ref()
                .is_ok_and(|target| target.container().name() == now.container().name()),
            _ => false,
        };
        let chosen = choices.iter().position(is_now).unwrap_or(0);
        let loaders = if loaders.len() > 1 { loaders } else { Vec::new() };
        TargetList { choices, chosen, loaders, scheme, source }
    }

    /// The target that Enter selects, or why there is none.
    pub fn target(&self) -> Result<Target, String> {
        let target = match self.loaders.as_slice() {
            [] => match self.choices.get(self.chosen) {
                Some(choice) => choice.target.clone()?,
                None => Target::default(),
            },
            loaders => Target::for_loaders(loaders, self.source).map_err(|why| why.to_string())?,
        };
        Ok(target.with_linear_scheme(self.scheme))
    }

    /// Describes the target under the cursor, or why it cannot be chosen. The flag is false if it
    /// cannot.
    pub fn text(&self) -> (String, bool) {
        let summary = self.choices.get(self.chosen).map_or("", |choice| choice.summary);
        match self.target() {
            Ok(target) => (format!("{summary}. Writes {}.", target.container()), true),
            Err(why) => (why, false),
        }
    }

    /// Ticks or unticks the loader under the cursor.
    ///
    /// # Errors
    /// Returns why the loader cannot be chosen together with the others.
    pub fn toggle(&mut self) -> Result<(), String> {
        let choice = self.choices.get(self.chosen);
        let Some(loader) = choice.and_then(|choice| choice.loader) else {
            return Err("only loaders can be chosen together".to_owned());
        };
        let mut loaders = self.loaders.clone();
        match loaders.iter().position(|other| *other == loader) {
            Some(at) => drop(loaders.remove(at)),
            None => {
                choice.map(|choice| choice.target.clone()).transpose()?;
                loaders.push(loader);
            }
        }
        Target::for_loaders(&loaders, self.source).map_err(|why| why.to_string())?;
        self.loaders = loaders;
        Ok(())
    }

    /// Shows the next or the previous scheme of compressed-tensors.
    pub fn step_scheme(&mut self, forward: bool) {
        let all = LinearScheme::ALL;
        let at = all.iter().position(|scheme| *scheme == self.scheme).unwrap_or(0);
        let step = if forward { 1 } else { all.len() - 1 };
        self.scheme = all.into_iter().nth((at + step) % all.len()).unwrap_or_default();
    }
}
