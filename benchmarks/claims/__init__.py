"""The paper's four claims, derived again from a sweep on rendered clips: see docs/claims.md."""
