//! The number of a worker among several.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// One worker of several: number `index`, counted from 1, of `count`. Written `index/count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    index: u32,
    count: NonZeroU32,
}

/// Maximum number of workers.
const MAX_COUNT: u32 = 100_000;

/// Why a text is not a partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// The text has another form.
    #[error("expected I/N, such as 1/4 for the first of four workers, or env")]
    Form,
    /// The number of the worker exceeds the number of workers.
    #[error("partitions are numbered from 1 to {count}, found {index}")]
    Range {
        /// The number of the worker.
        index: u64,
        /// The number of workers.
        count: u64,
    },
    /// The number of workers is zero or too large.
    #[error("expected 1 to {MAX_COUNT} partitions, found {0}")]
    Count(u64),
    /// A required environment variable is missing or not a number.
    #[error("the environment variable {0}")]
    Environment(String),
}

impl Partition {
    /// Creates worker number `index` of `count`, counted from 1.
    ///
    /// # Errors
    /// If `index` is not within 1 and `count`, or `count` is out of range.
    pub fn new(index: u64, count: u64) -> Result<Partition, PartitionError> {
        let valid = u32::try_from(count).ok().filter(|&count| count <= MAX_COUNT);
        let valid = valid.and_then(NonZeroU32::new).ok_or(PartitionError::Count(count))?;
        match u32::try_from(index) {
            Ok(index) if index >= 1 && index <= valid.get() => {
                Ok(Partition { index, count: valid })
            }
            _ => Err(PartitionError::Range { index, count }),
        }
    }

    /// Parses `I/N`, `env` or `env/N`. `env` takes the number of the worker from a Slurm job
    /// array or an indexed Kubernetes Job, whose variables `variable` looks up; Kubernetes does
    /// not tell the number of workers, which is then `N` or the variable `JOB_COMPLETIONS`.
    ///
    /// # Errors
    /// If the text has another form, a number is out of range, or a variable is missing.
    pub fn parse(
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Partition, PartitionError> {
        let (index, count) = match text.split_once('/') {
            Some((index, count)) => (index, Some(number(count).ok_or(PartitionError::Form)?)),
            None => (text, None),
        };
        match (index, count) {
            ("env", count) => from_environment(count, variable),
            (index, Some(count)) => {
                Partition::new(number(index).ok_or(PartitionError::Form)?, count)
            }
            _ => Err(PartitionError::Form),
        }
    }

    /// The number of the worker, from 1.
    pub fn index(self) -> u32 {
        self.index
    }

    /// The number of workers.
    pub fn count(self) -> u32 {
        self.count.get()
    }

    /// Returns the partitions of all workers, in order.
    pub fn all(self) -> impl Iterator<Item = Partition> {
        let count = self.count;
        (1..=count.get()).map(move |index| Partition { index, count })
    }
}

/// Parses a number of decimal digits; `None` for everything else.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn from_environment(
    count: Option<u64>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Partition, PartitionError> {
    let optional = |name: &str| match variable(name) {
        None => Ok(None),
        Some(text) => match number(text.trim()) {
            Some(number) => Ok(Some(number)),
            None => Err(PartitionError::Environment(format!("{name} is not a number: {text:?}"))),
        },
    };
    let missing = |why: &str| PartitionError::Environment(why.to_owned());
    if let Some(id) = optional("SLURM_ARRAY_TASK_ID")? {
        // A job array may begin at any number and have gaps of a constant step.
        let first = optional("SLURM_ARRAY_TASK_MIN")?.unwrap_or(1);
        let step = optional("SLURM_ARRAY_TASK_STEP")?.filter(|&step| step > 0).unwrap_or(1);
        let tasks = optional("SLURM_ARRAY_TASK_COUNT")?;
        let count = count
            .or(tasks)
            .ok_or_else(|| missing("SLURM_ARRAY_TASK_COUNT is not set; write --partition env/N"))?;
        return Partition::new(id.saturating_sub(first) / step + 1, count);
    }
    if let Some(index) = optional("JOB_COMPLETION_INDEX")? {
        let completions = optional("JOB_COMPLETIONS")?;
        let count = count.or(completions).ok_or_else(|| {
            missing(
                "JOB_COMPLETIONS is not set; write --partition env/N with the Job's completions",
            )
        })?;
        return Partition::new(index.saturating_add(1), count);
    }
    Err(missing(
        "SLURM_ARRAY_TASK_ID (Slurm) or JOB_COMPLETION_INDEX (Kubernetes) is not set; \
         write --partition I/N",
    ))
}

impl FromStr for Partition {
    type Err = PartitionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Partition::parse(text, |name| std::env::var(name).ok())
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn parse(text: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        let variable = |name: &str| variables.get(name).map(|&text| text.to_owned());
        Partition::parse(text, variable).map(|p| p.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_number_of_a_number_is_a_partition() {
        assert_eq!(parse("1/1", &[]), Ok("1/1".to_owned()));
        assert_eq!(parse("7/16", &[]), Ok("7/16".to_owned()));
        let form = "expected I/N, such as 1/4 for the first of four workers, or env";
        for text in ["", "3", "1/", "/2", "1/2/3", "a/2", "-1/2", "+1/2", " 1/2", "1.0/2"] {
            assert_eq!(parse(text, &[]), Err(form.to_owned()), "{text:?}");
        }
        let range = |index| format!("partitions are numbered from 1 to 4, found {index}");
        assert_eq!(parse("0/4", &[]), Err(range(0)));
        assert_eq!(parse("5/4", &[]), Err(range(5)));
        let count = "expected 1 to 100000 partitions, found 0";
        assert_eq!(parse("1/0", &[]), Err(count.to_owned()));
    }

    #[test]
    fn slurm_arrays_may_begin_anywhere_and_have_a_step() {
        let slurm = |id, min, step, count| {
            parse(
                "env",
                &[
                    ("SLURM_ARRAY_TASK_ID", id),
                    ("SLURM_ARRAY_TASK_MIN", min),
                    ("SLURM_ARRAY_TASK_STEP", step),
                    ("SLURM_ARRAY_TASK_COUNT", count),
                ],
            )
        };
        assert_eq!(slurm("1", "1", "1", "8"), Ok("1/8".to_owned()));
        assert_eq!(slurm("7", "0", "1", "8"), Ok("8/8".to_owned()));
        assert_eq!(slurm("10", "4", "3", "3"), Ok("3/3".to_owned()));
        let why = "the environment variable SLURM_ARRAY_TASK_ID is not a number: \"x\"";
        assert_eq!(slurm("x", "1", "1", "8"), Err(why.to_owned()));
    }

    #[test]
    fn kubernetes_counts_from_zero_and_needs_the_number_of_workers() {
        let index = [("JOB_COMPLETION_INDEX", "0")];
        assert_eq!(parse("env/3", &index), Ok("1/3".to_owned()));
        let both = [("JOB_COMPLETION_INDEX", "2"), ("JOB_COMPLETIONS", "3")];
        assert_eq!(parse("env", &both), Ok("3/3".to_owned()));
        assert!(parse("env", &index).is_err_and(|why| why.contains("env/N")));
        assert!(parse("env", &[]).is_err_and(|why| why.contains("--partition I/N")));
    }
}
