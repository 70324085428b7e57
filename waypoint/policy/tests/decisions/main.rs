//! Verdicts of compiled policies, through the public interface.

#[cfg(test)]
mod istio;
#[cfg(test)]
mod support;
