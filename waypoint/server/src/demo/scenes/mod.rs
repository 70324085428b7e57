//! The scenes, in the order in which they are played. Each is one promise of the product, kept before your eyes.

mod change;
mod lists;
mod load;
mod metrics;
mod sessions;
mod streams;
mod tools;

use super::play::Play;

/// Plays all of them. A scene that cannot go on is a failed expectation, and the next one is played.
pub(super) async fn play(play: &mut Play, requests: usize) {
    macro_rules! scene {
        ($title:literal, $scene:expr) => {
            play.report.section($title);
            if let Err(error) = $scene.await {
                play.report.expect(false, &format!("the scene broke off: {error:#}"));
            }
        };
    }
    scene!("Who may call what", tools::play(play));
    scene!("Lists show what may be called", lists::play(play));
    scene!("A session belongs to an identity", sessions::play(play));
    scene!("Raw TCP: identity decides, bytes are not read", streams::play(play));
    scene!("Policies change while connections are open", change::play(play));
    scene!("Load", load::play(play, requests));
    scene!("Metrics of this run (/stats/prometheus)", metrics::play(play));
}
