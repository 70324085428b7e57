//! Lines of the access log, beside those of a real Envoy that has the same listener from istiod, for the same requests: in
//! Istio's default text format, and in a JSON format.

mod fields;
mod known;
mod stage;

use anyhow::{Context, Result};
use fields::Fields;
use stage::{Lines, Row, Stage};
use std::collections::BTreeSet;

#[tokio::test]
async fn lines_are_those_of_envoy_but_for_what_is_known() -> Result<()> {
    let stage = Stage::set().await?;
    let (mut differences, mut known) = (BTreeSet::new(), BTreeSet::new());
    for row in stage.rows() {
        let Lines { ours, envoys } = stage.ask(&row).await.with_context(|| row.name)?;
        for format in fields::FORMATS {
            let read = |line: &str| (format.read)(line).with_context(|| format!("{}: {line}", row.name));
            let (ours, envoys) = (read(&ours[format.name])?, read(&envoys[format.name])?);
            differences.extend(compared(&row, &ours, &envoys));
            known.extend(known::of(&row, &stage, &ours));
        }
    }
    let unknown: Vec<_> = differences.difference(&known).collect();
    assert!(unknown.is_empty(), "ours and Envoy's: {unknown:#?}");
    let gone: Vec<_> = known.difference(&differences).collect();
    assert!(gone.is_empty(), "no such difference any more: {gone:#?}");
    Ok(())
}

/// A field that is not the same: request, field, our value and Envoy's.
type Difference = [String; 4];

fn compared(row: &Row, ours: &Fields, envoys: &Fields) -> Vec<Difference> {
    let names: BTreeSet<_> = ours.keys().chain(envoys.keys()).collect();
    let differs = |name: &&String| ours.get(*name) != envoys.get(*name);
    let told = |name: &String| {
        let of = |fields: &Fields| fields.get(name).map_or_else(|| "absent".to_owned(), fields::shown);
        [row.name.to_owned(), name.clone(), of(ours), of(envoys)]
    };
    names.into_iter().filter(differs).map(told).collect()
}
