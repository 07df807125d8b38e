//! The session: marks and cursor, saved from one run to the next.

use crate::app::action::Action;
use crate::app::state::App;
use crate::app::tab::Tab;
use crate::app::table::{Column, Sort};
use crate::app::tensor_metrics::SCHEMES;
use crate::export::OutputFormat;
use crate::plan::target::Container;
use crate::plan::{Plan, recipe};
use crate::quantization::QuantizationScheme;
use crate::text::figures;
use serde::{Deserialize, Serialize};
use std::path::Path;

const VERSION: u32 = 1;

/// The saved state of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    version: u32,
    /// Size of the model, to detect that the path holds another model now.
    tensors: usize,
    bytes: u64,
    tensor: Option<String>,
    tab: String,
    tree: bool,
    sort: String,
    descending: bool,
    /// Columns chosen on the screen.
    columns: Option<Vec<String>>,
    scheme: String,
    /// The plan as a recipe.
    recipe: Option<String>,
}

impl Session {
    /// Parses a session.
    ///
    /// # Errors
    /// Fails if the text is not a session.
    pub fn parse(text: &str) -> Result<Session, String> {
        let session: Session = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        match session.version {
            VERSION => Ok(session),
            other => Err(format!("unsupported version: expected {VERSION}, found {other}")),
        }
    }

    /// Writes the session as TOML.
    pub fn to_toml(&self) -> String {
        // Strings, numbers and booleans always serialize.
        toml::to_string(self).unwrap_or_default()
    }
}

impl App {
    /// The session to save.
    pub fn session(&self) -> Session {
        let checkpoint = &self.model.checkpoint;
        let plan = self.model.plan();
        let columns = self.settings.columns.iter();
        Session {
            version: VERSION,
            tensors: checkpoint.tensors().len(),
            bytes: checkpoint.total_bytes(),
            tensor: self.current_tensor().map(|id| checkpoint.tensor(id).name.to_string()),
            tab: self.tab.title().to_owned(),
            tree: self.table.as_tree,
            sort: self.table.sort.column.name(),
            descending: self.table.sort.descending,
            columns: self.own_columns.then(|| columns.map(|column| column.name()).collect()),
            scheme: self.model.scheme().to_string(),
            recipe: (!plan.is_empty() || !plan.target.is_default())
                .then(|| recipe::to_toml(plan, checkpoint)),
        }
    }

    /// Restores a session. Parts that do not fit the model are ignored.
    pub fn restore(&mut self, session: &Session) {
        let checkpoint = self.model.checkpoint.clone();
        if (session.tensors, session.bytes)
            != (checkpoint.tensors().len(), checkpoint.total_bytes())
        {
            return self.say("the model has changed since the last session: nothing was restored");
        }
        let parsed = session
            .recipe
            .as_ref()
            .map(|text| recipe::from_toml(Path::new("session"), text, &checkpoint));
        let plan = parsed.transpose().unwrap_or_else(|why| {
            self.warn(format!("the last session's plan does not fit this model: {why}"));
            None
        });
        let target = plan.as_ref().map_or(Container::default(), |plan| plan.target.container());
        let held = |scheme: &QuantizationScheme| {
            SCHEMES.contains(scheme) || scheme.preset().is_some() && target.can_store(*scheme)
        };
        if let Some(scheme) = session.scheme.parse().ok().filter(held) {
            self.model.choose_scheme(scheme);
        }
        if let Some(&tab) = Tab::ALL.iter().find(|tab| tab.title() == session.tab) {
            self.tab = tab;
        }
        if let Some(columns) = &session.columns {
            let known = columns.iter().filter_map(|name| Column::named(name));
            self.settings.columns = known.filter(|column| column.is_optional()).collect();
            self.own_columns = true;
        }
        if let Some(column) = Column::named(&session.sort) {
            self.table.set_sort(Sort { column, descending: session.descending }, &self.model);
        }
        if let Some(plan) = plan {
            self.restore_plan(plan);
        }
        self.table.set_tree(session.tree, &self.model);
        if let Some(id) = session.tensor.as_ref().and_then(|name| checkpoint.find(name)) {
            self.table.go_to(id, &self.model);
        }
    }

    /// Restores the plan of a session. A target that this model cannot be saved for is left out.
    fn restore_plan(&mut self, mut plan: Plan) {
        let marked = figures::counted(plan.len(), "mark");
        let unfit = OutputFormat::of(plan.target.container()).unfit(&self.model.checkpoint);
        let unfit = unfit.map(|why| {
            let target = std::mem::take(&mut plan.target);
            format!("the last session's target {target} was left out: {why}")
        });
        if self.model.replace(plan.clone()) {
            // These marks are in the session file already, so quitting need not ask about them.
            self.model.record_saved(&plan);
        } else if unfit.is_none() {
            return;
        }
        let target = if plan.target.is_default() {
            String::new()
        } else {
            format!(" and the target {}", plan.target)
        };
        let undo = self.key_of(Action::Undo);
        match unfit {
            Some(why) => self.warn(why),
            None => self
                .say(format!("{marked}{target} restored from the last session; {undo} undoes it")),
        }
    }
}
