//! What takes its time: restarts one after the other, certificates of seconds, all under load that must not notice. The
//! tests run side by side.

#![cfg(test)]

mod rollout;
mod rotation;
