//! The cryptography of the mesh, chosen here and nowhere else.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{
    CryptoProvider,
    aws_lc_rs::{self, cipher_suite, kx_group},
};

static MESH: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        // The hybrid first: what is recorded today must not be readable once X25519 alone can be broken.
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
});

/// TLS 1.3 suites and key exchange groups by aws-lc-rs. Given to rustls explicitly: the default of the process
/// is for others to set.
pub(crate) fn mesh() -> Arc<CryptoProvider> {
    Arc::clone(&MESH)
}
