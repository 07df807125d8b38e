//! The Values tab: what has to be read, and moving to an element.

use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::overlay::Overlay;
use crate::app::prompt::{Prompt, Purpose};
use crate::app::state::App;
use crate::app::tensor_metrics::{Cost, Measurement};
use crate::app::values;
use crate::job::element_window::Quantization;
use crate::tensor::TensorId;

impl App {
    /// Requests the visible elements that were not read yet.
    pub(super) fn request_values(&mut self, effects: &mut Effects) {
        let Some(id) = self.current_tensor() else { return };
        self.values.show(id, &self.model.checkpoint.tensor(id).shape);
        let quantization = self.quantization_of(id);
        effects.extend(self.values.request(quantization).map(Effect::ReadValues));
    }

    /// How the elements of a tensor are quantized; `None` if they cannot be.
    fn quantization_of(&self, id: TensorId) -> Option<Quantization> {
        let impossible = self.model.obstacle(id).is_some_and(|o| !o.can_be_overruled());
        if impossible {
            return None;
        }
        let quantizer = self.model.quantizer_of(id);
        let rounding = self.model.plan().rounding;
        let scale = match self.model.measurement(id) {
            Measurement::Done(metrics) => match metrics.cost_of(quantizer) {
                Some(Cost::Error { scales: 1, largest_scale, .. }) => Some(*largest_scale),
                Some(Cost::Impossible(_)) => return None,
                _ => None,
            },
            Measurement::Unreadable(_) | Measurement::NotFloat => return None,
            // The scale of a whole tensor comes with the calibration.
            Measurement::Waiting => match quantizer.scheme.groups(self.shape(id)).count() {
                1 => return None,
                _ => None,
            },
        };
        let scale_storage = self.model.scale_storage();
        Some(Quantization { quantizer, rounding, scale_storage, scale })
    }

    fn shape(&self, id: TensorId) -> &crate::tensor::Shape {
        &self.model.checkpoint.tensor(id).shape
    }

    pub(super) fn open_index(&mut self) {
        if let Some(id) = self.current_tensor() {
            self.overlay = Some(Overlay::Prompt(Prompt::new(Purpose::Index(id), "")));
        }
    }

    /// Moves to an element by its index. `Err` says why there is none.
    pub(super) fn go_to_element(&mut self, id: TensorId, text: &str) -> Result<(), String> {
        let index = values::index_of(text, self.shape(id))?;
        self.values.center_on(index);
        Ok(())
    }

    /// Moves to the next or the previous tensor and keeps the tab open.
    pub(super) fn next_tensor(&mut self, forward: bool) {
        let last = self.table.rows().len();
        let place = self.table.find(forward, |_| true);
        let wraps = |place: usize| {
            if forward { place <= self.table.cursor() } else { place >= self.table.cursor() }
        };
        match place.filter(|&place| place < last && !wraps(place)) {
            Some(place) => self.table.move_to(place),
            None => self.say(if forward {
                "this is the last tensor"
            } else {
                "this is the first tensor"
            }),
        }
    }
}
