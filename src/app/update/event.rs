//! Updates the state with one event.

use crate::app::action::Action;
use crate::app::calibration::CalibrationState;
use crate::app::effects::Effects;
use crate::app::event::Event;
use crate::app::overlay::Overlay;
use crate::app::state::App;
use crate::app::texts;
use crate::job::save::SaveEvent;

/// Changes the state and returns the effects to carry out.
pub fn update(app: &mut App, event: Event) -> Effects {
    let mut effects = Effects::new();
    match event {
        Event::Opened => {
            app.calibrate(&mut effects);
            if !app.activations.is_empty() {
                let files = app.activations.clone();
                app.open_activations(files, &mut effects);
            }
        }
        Event::Key(key) => app.key(key, &mut effects),
        Event::Paste(text) => app.paste(&text),
        Event::Click(target) => app.click(target, &mut effects),
        Event::Drag(target) => app.drag(target, &mut effects),
        Event::Wheel(rows) => app.wheel(rows, &mut effects),
        Event::Resized(viewport) => app.resize(viewport),
        Event::Tick { now, calibration, save, diff, outputs } => {
            app.tick(now, calibration, save, diff, outputs);
        }
        Event::Analyzed { generation, tensor, found } if generation == app.generation => {
            if app.model.record_analysis(tensor, found) {
                let name = &app.model.checkpoint.tensor(tensor).name;
                app.warn(format!("unmarked {name}: it has no scale"));
            }
            app.ranking_is_stale = true;
        }
        Event::CalibrationEnded { generation, meter } if generation == app.generation => {
            app.calibration_ended(meter, &mut effects);
        }
        Event::CalibrationFailed { generation, why } if generation == app.generation => {
            app.update_ranking();
            app.calibration = CalibrationState::Failed;
            match app.overlay {
                // Keep the window of a save that is running.
                Some(Overlay::Saving(_)) => app.warn(format!("calibration failed: {why}")),
                _ => {
                    let key = app.key_of(Action::Calibrate);
                    let then = format!("Measurements so far are kept. {key} calibrates again.");
                    app.show_error("Calibration failed", why, &then);
                }
            }
        }
        Event::MarkMeasured { tensor, scale_storage, found }
            if scale_storage == app.model.scale_storage() =>
        {
            app.model.record_analysis(tensor, found);
            app.measured(tensor);
        }
        // Outdated: measured in a former calibration, or with the scales of a former target.
        Event::Analyzed { .. }
        | Event::MarkMeasured { .. }
        | Event::CalibrationEnded { .. }
        | Event::CalibrationFailed { .. } => {}
        Event::SavePreviewed(preview) => {
            let dialog = app.find_overlay(|overlay| matches!(overlay, Overlay::Save(_)));
            if let Some(Overlay::Save(dialog)) = dialog {
                dialog.preview = Some(preview);
            }
        }
        Event::FormatsReviewed(formats) => app.formats_reviewed(formats, &mut effects),
        Event::RulesRead(target, rules) => app.rules_read(target, rules, &mut effects),
        Event::Save(SaveEvent::Phase(phase)) => {
            let saving = app.find_overlay(|overlay| matches!(overlay, Overlay::Saving(_)));
            if let Some(Overlay::Saving(saving)) = saving {
                saving.phase = phase;
            }
        }
        Event::Save(SaveEvent::Finished(outcome)) => app.save_finished(*outcome, &mut effects),
        Event::SavedChecked(out, checked) => app.saved_checked(&out, checked),
        Event::SaveFailed(why) => {
            app.remove_overlay(|overlay| matches!(overlay, Overlay::Saving(_)));
            app.show_error("The save failed", why, "Nothing was written.");
        }
        Event::Config(config) => {
            let metadata = texts::metadata(&app.model.checkpoint, Some(&config));
            let (width, height) = app.viewport.text;
            let text = app.find_overlay(|overlay| matches!(overlay, Overlay::Text(..)));
            if let Some(Overlay::Text(_, pager)) = text {
                let scroll = pager.scroll() as isize;
                *pager = metadata;
                pager.scroll_by(scroll, width, height);
            }
        }
        Event::Values(request, found) => app.values.receive(request, found),
        Event::HistogramBuilt(tensor, counted) => app.histogram.receive(tensor, counted),
        Event::ClipMeasured(request, found) => app.histogram.receive_clip(request, found),
        Event::Duplicates(found) => {
            app.model.record_duplicates(&found);
            app.update_ranking();
        }
        Event::SchemesCompared(tensor, found) => app.comparison.receive(tensor, found),
        Event::Channels(request, found) => app.channels.receive(request, found),
        Event::ModelsFound(found) => app.models_found(found),
        Event::OpenFailed(path, why) => app.open_failed(&path, why),
        Event::PathCompleted(typed, completion) => app.path_completed(&typed, completion),
        Event::DirectoryCreated(path, created) => app.directory_created(&path, created),
        Event::RecipeWritten(outcome) => app.recipe_written(outcome),
        Event::ReportWritten(outcome) => app.report_written(outcome),
        Event::RecipeRead(outcome) => app.recipe_read(outcome),
        Event::Outputs(news) => app.outputs_event(news, &mut effects),
        Event::Compared(outcome) => app.compared(outcome),
    }
    app.follow_target(&mut effects);
    app.prioritize_visible(&mut effects);
    app.measure_marks(&mut effects);
    app.request_tab_data(&mut effects);
    effects
}
