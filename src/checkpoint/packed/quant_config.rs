//! The configuration's settings for the quantization of one module.

use crate::checkpoint::config::Config;
use crate::checkpoint::packed::listing::Listing;
use regex::Regex;
use serde_json::{Map, Value};

/// Names of AutoRound's quantization method.
const AUTO_ROUND: [&str; 3] = ["auto-round", "auto_round", "intel/auto-round"];

/// The settings of a compressed-tensors configuration for a module's weight. All fields are `None`
/// without a configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WeightScheme {
    pub format: Option<String>,
    pub bits: Option<u64>,
    /// `int` or `float`.
    pub kind: Option<String>,
    pub strategy: Option<String>,
    pub group_size: Option<u64>,
    pub symmetric: Option<bool>,
    /// Rows and columns of a block.
    pub block: Option<(u64, u64)>,
    pub act_order: Option<String>,
}

impl Listing<'_> {
    fn quantization(&self) -> Option<&Map<String, Value>> {
        self.config.as_ref()?.quantization()
    }

    /// Returns whether the configuration says that the model is quantized.
    pub(super) fn is_quantized(&self) -> bool {
        self.quantization().is_some()
    }

    /// Returns the `quant_method`.
    pub(super) fn method(&self) -> Option<&str> {
        self.config.as_ref()?.method()
    }

    /// Returns the method whose tensors the files hold: AutoRound writes the formats of other
    /// methods.
    pub(super) fn effective_method(&self) -> Option<&str> {
        match self.method() {
            Some(method) if AUTO_ROUND.contains(&method) => match self.packing()? {
                "auto_round" | "auto_round:gptqmodel" | "auto_round:auto_gptq" => Some("gptq"),
                "auto_round:auto_awq" => Some("awq"),
                "auto_round:llm_compressor" => Some("compressed-tensors"),
                _ => Some(method),
            },
            Some("modelopt_fp4" | "modelopt_mixed" | "modelopt_fp8") => Some("modelopt"),
            method => method,
        }
    }

    fn packing(&self) -> Option<&str> {
        let packing = self.quantization().and_then(|all| all.get("packing_format"));
        Some(packing.and_then(Value::as_str).unwrap_or(""))
    }

    /// Returns whether the configuration names one of these methods, or none.
    pub(super) fn allows(&self, methods: &[&str]) -> bool {
        self.effective_method().is_none_or(|method| methods.contains(&method))
    }

    /// Returns the number to add to a stored GPTQ zero point; `None` if the format is not GPTQ,
    /// or if the configuration names two.
    pub(super) fn gptq_zero_offset(&self) -> Option<i32> {
        if self.method().is_some_and(|method| AUTO_ROUND.contains(&method)) {
            return match self.packing()? {
                "auto_round:auto_gptq" => Some(1),
                "auto_round" | "auto_round:gptqmodel" => Some(0),
                _ => None,
            };
        }
        if self.flag("is_marlin_format") {
            return None;
        }
        let named = ["checkpoint_format", "format"].map(|key| self.text(key));
        let offset = |format: &Option<String>| match format.as_deref() {
            Some("gptq") => Some(1),
            Some("gptq_v2") => Some(0),
            _ => None,
        };
        match &named {
            [None, None] => Some(1),
            [format, None] | [None, format] => offset(format),
            [old, new] => offset(old).filter(|_| old == new),
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.config.as_ref()?.text(key)
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        self.quantization().and_then(|all| all.get(key)?.as_bool()).unwrap_or(false)
    }

    /// Returns a number for a module: from its own entry in GPTQModel's `dynamic` or AutoRound's
    /// `extra_config`, else that of the whole model.
    pub(super) fn module_number(&self, module: &str, keys: &[&str]) -> Option<i64> {
        let own = self.module_entry(module);
        let own = own.and_then(|own| keys.iter().find_map(|&key| own.get(key)?.as_i64()));
        own.or_else(|| self.config.as_ref()?.number(keys))
    }

    fn module_entry(&self, module: &str) -> Option<&Map<String, Value>> {
        let all = self.quantization()?;
        if let Some(extra) = all.get("extra_config").and_then(Value::as_object) {
            let exact = extra.get(module);
            let entry = exact.or_else(|| {
                extra.iter().find(|(pattern, _)| matches(pattern, module)).map(|(_, entry)| entry)
            });
            return entry?.as_object();
        }
        let dynamic = all.get("dynamic")?.as_object()?;
        let pattern = |key: &str| key.strip_prefix("+:").unwrap_or(key).to_owned();
        let entry = dynamic.iter().find(|(key, _)| matches(&pattern(key), module));
        entry?.1.as_object()
    }

    /// Returns whether the configuration excludes a module from quantization.
    pub(super) fn is_excluded(&self, module: &str) -> bool {
        let Some(all) = self.quantization() else { return false };
        let lists = ["ignore", "modules_to_not_convert", "exclude_modules"];
        let lists = lists.iter().filter_map(|&key| all.get(key)?.as_array());
        let listed =
            lists.flatten().filter_map(Value::as_str).any(|name| match name.strip_prefix("re:") {
                Some(pattern) => matches(pattern, module),
                None => name == module,
            });
        let dynamic = all.get("dynamic").and_then(Value::as_object);
        listed
            || dynamic.is_some_and(|dynamic| {
                let mut patterns = dynamic.keys().filter_map(|key| key.strip_prefix("-:"));
                patterns.any(|pattern| matches(pattern, module))
            })
    }

    /// Returns the algorithm named in ModelOpt's configuration, in upper case.
    pub(super) fn modelopt_algorithm(&self) -> Option<String> {
        let all = self.quantization()?;
        let nested = all.get("quantization").and_then(Value::as_object);
        let name = all.get("quant_algo").or_else(|| nested?.get("quant_algo"))?;
        Some(name.as_str()?.to_uppercase())
    }

    /// Returns the size of FP8 blocks in the configuration of `quant_method: fp8`.
    pub(super) fn weight_block_size(&self) -> Option<(u64, u64)> {
        pair(self.quantization()?.get("weight_block_size")?)
    }

    /// Returns the type of DeepSeek-V4's experts.
    pub(super) fn expert_dtype(&self) -> Option<&str> {
        let inner = self.quantization().and_then(|all| all.get("expert_dtype"));
        inner.or_else(|| self.config.as_ref()?.json().get("expert_dtype"))?.as_str()
    }

    /// Returns whether compressed-tensors packed integers densely, as 0.18 and later do. `None` if
    /// the configuration does not give the version.
    pub(super) fn packs_densely(&self) -> Option<bool> {
        let version = self.text("version")?;
        let mut numbers = version.split('.').map(|part| part.parse::<u64>().ok());
        let (major, minor) = (numbers.next()??, numbers.next()??);
        Some((major, minor) >= (0, 18))
    }

    /// Returns the settings of a compressed-tensors configuration for a module's weight.
    ///
    /// # Errors
    ///
    /// The configuration contradicts the name or parts of the weight.
    pub(super) fn weight_scheme(&self, module: &str) -> Result<WeightScheme, String> {
        let Some(all) = self.quantization() else { return Ok(WeightScheme::default()) };
        if self.method().is_some_and(|method| AUTO_ROUND.contains(&method)) {
            return Ok(auto_round_scheme(all));
        }
        let transforms = all.get("transform_config").and_then(Value::as_object);
        let groups = transforms.and_then(|transforms| transforms.get("config_groups"));
        if groups.and_then(Value::as_object).is_some_and(|groups| !groups.is_empty()) {
            return Err(
                "its weights are rotated (transform_config), which quantscope does not undo".into(),
            );
        }
        if self.is_excluded(module) {
            return Err(
                "config.json lists its module under 'ignore', but it is stored quantized".into()
            );
        }
        let format = |map: &Map<String, Value>| {
            let format = map.get("format")?.as_str()?;
            (format != "mixed-precision").then(|| format.to_lowercase())
        };
        let groups = all.get("config_groups").and_then(Value::as_object);
        let Some(groups) = groups.filter(|groups| !groups.is_empty()) else {
            return Ok(WeightScheme { format: format(all), ..WeightScheme::default() });
        };
        let best = groups.values().filter_map(Value::as_object).filter_map(|group| {
            let targets = group.get("targets").and_then(Value::as_array);
            let targets = targets.into_iter().flatten().filter_map(Value::as_str);
            let fit = targets.filter_map(|target| target_fit(target, module)).max()?;
            Some((fit, group))
        });
        // The first of the groups with the most specific target.
        let group = best.reduce(|a, b| if b.0 > a.0 { b } else { a }).map(|(_, group)| group);
        let group = group.ok_or("no group of config.json targets its module")?;
        let Some(weights) = group.get("weights").and_then(Value::as_object) else {
            return Err("its group in config.json does not quantize weights".into());
        };
        let text = |key: &str| Some(weights.get(key)?.as_str()?.to_lowercase());
        Ok(WeightScheme {
            format: format(group).or_else(|| format(all)),
            bits: weights.get("num_bits").and_then(Value::as_u64),
            kind: text("type"),
            strategy: text("strategy"),
            group_size: weights.get("group_size").and_then(Value::as_u64).filter(|&n| n > 0),
            symmetric: weights.get("symmetric").and_then(Value::as_bool),
            block: weights.get("block_structure").and_then(pair),
            act_order: text("actorder"),
        })
    }
}

impl WeightScheme {
    /// Checks that the format, if given, is one of `formats`.
    pub(super) fn stored_as(&self, formats: &[&str]) -> Result<(), String> {
        match &self.format {
            Some(format) if !formats.contains(&format.as_str()) => Err(format!(
                "config.json says '{}', its tensors are those of {}",
                format.escape_debug(),
                formats.join(" or ")
            )),
            _ => Ok(()),
        }
    }

    /// Checks that it does not contradict a number type and a number of bits.
    pub(super) fn typed(&self, kind: &str, bits: u64) -> Result<(), String> {
        let other_kind = self.kind.as_deref().filter(|&found| found != kind);
        let other_bits = self.bits.filter(|&found| found != bits);
        if other_kind.is_none() && other_bits.is_none() {
            return Ok(());
        }
        let found = (self.kind.as_deref().unwrap_or(kind), self.bits.unwrap_or(bits));
        Err(format!(
            "config.json says {} of {} bits, its tensors hold {kind} of {bits}",
            found.0.escape_debug(),
            found.1
        ))
    }
}

/// Returns the settings of `auto_round:llm_compressor`, whose tensors are those of
/// compressed-tensors.
fn auto_round_scheme(all: &Map<String, Value>) -> WeightScheme {
    let data_type = all.get("data_type").and_then(Value::as_str).unwrap_or_default();
    WeightScheme {
        bits: all.get("bits").and_then(Value::as_u64),
        kind: Some(if data_type.ends_with("fp") { "float" } else { "int" }.to_owned()),
        group_size: all.get("group_size").and_then(Value::as_u64).filter(|&n| n > 0),
        symmetric: all.get("sym").and_then(Value::as_bool),
        ..WeightScheme::default()
    }
}

/// Returns how specifically a target of compressed-tensors matches a module: by name, by pattern,
/// or by a class of layers, which cannot be checked against a name.
fn target_fit(target: &str, module: &str) -> Option<u8> {
    if let Some(pattern) = target.strip_prefix("re:") {
        return matches(pattern, module).then_some(2);
    }
    let ends = |long: &str, short: &str| {
        long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if ends(module, target) || ends(target, module) {
        return Some(3);
    }
    let is_class = target.starts_with(|c: char| c.is_ascii_uppercase()) && !target.contains('.');
    is_class.then_some(1)
}

/// Returns whether a Python pattern matches the start of a name, as `re.match` does. False for an
/// invalid pattern.
fn matches(pattern: &str, name: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})")).is_ok_and(|pattern| pattern.is_match(name))
}

fn pair(value: &Value) -> Option<(u64, u64)> {
    match value.as_array()?.as_slice() {
        [a, b] => Some((a.as_u64().filter(|&n| n > 0)?, b.as_u64().filter(|&n| n > 0)?)),
        _ => None,
    }
}

/// Returns the configured type of the whole model.
pub(super) fn configured_dtype(listing: &Listing) -> Option<crate::tensor::FloatType> {
    listing.config.as_ref().and_then(Config::dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_match_names_before_patterns_before_classes() {
        let module = "model.layers.0.mlp.up_proj";
        assert_eq!(target_fit("model.layers.0.mlp.up_proj", module), Some(3));
        assert_eq!(target_fit("mlp.up_proj", module), Some(3));
        assert_eq!(target_fit("re:.*up_proj$", module), Some(2));
        assert_eq!(target_fit("Linear", module), Some(1));
        for target in ["re:.*q_proj", "proj", "q_proj", "re:("] {
            assert_eq!(target_fit(target, module), None, "{target}");
        }
    }
}
