//! Verdicts of compiled policies, through the public interface.

#[cfg(test)]
mod conditions;
#[cfg(test)]
mod facts;
#[cfg(test)]
mod generate;
#[cfg(test)]
mod istio;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod support;
#[cfg(test)]
mod told;
#[cfg(test)]
mod traps;
