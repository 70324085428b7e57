//! Peers that mean harm, each scripted frame by frame: while one is at it another client is served all the time, memory and CPU stay
//! bounded, and a metric says by reason what happened.

#![cfg(test)]

mod bystander;
mod connects;
mod floods;
mod handshakes;
mod heads;
mod slow;
mod windows;
