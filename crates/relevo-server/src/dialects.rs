//! Answers to the updater apps of ROMs, each made once for a state of the repository.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use relevo_dialect::{Key, NoAnswer, Question, Site, Table};
use relevo_types::Sha256;
use sha2::Digest;

use crate::catalog::Catalog;

/// Most bytes of answers that are kept. Keys are made of what the repository knows, so nobody can make up more of them;
/// this is for repositories of thousands of devices.
const MAX_KEPT: usize = 64 << 20;

/// What every answer costs in memory besides its bytes, about.
const OVERHEAD: usize = 256;

/// A body that is ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) sha256: Sha256,
}

/// Makes answers, and keeps them until the repository changes.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) table: Table,
    pub(crate) site: Site,
    /// Whether phones reach this server by `https`, and so may be sent to mirrors by `https` alone.
    https: bool,
    kept: RwLock<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The state that they are about.
    state: Option<Sha256>,
    answers: HashMap<Key, Result<Answer, NoAnswer>>,
    len: usize,
}

impl Answer {
    pub(crate) fn new(body: Vec<u8>) -> Self {
        let sha256 = Sha256::new(sha2::Sha256::digest(&body).into());
        Self { body: Bytes::from(body), sha256 }
    }
}

impl Answers {
    /// Nothing is made yet.
    pub(crate) fn new(table: Table, site: Site) -> Self {
        let https = site.public.as_ref().is_none_or(|public| public.is_https());
        Self { table, site, https, kept: RwLock::default() }
    }

    /// The answer to a question.
    pub(crate) fn get(
        &self,
        question: &Question<'_, '_>,
        key: Key,
        catalog: &Arc<Catalog>,
    ) -> Result<Answer, NoAnswer> {
        {
            let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = kept.answers.get(&key).filter(|_| kept.state == Some(catalog.id)) {
                return answer.clone();
            }
        }
        let made = question.answer(&key, &catalog.offers, &self.site).map(Answer::new);
        let cost = OVERHEAD + made.as_ref().map_or(0, |answer| answer.body.len());
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.state != Some(catalog.id) || kept.len.saturating_add(cost) > MAX_KEPT {
            *kept = Kept { state: Some(catalog.id), ..Kept::default() };
        }
        if kept.answers.insert(key, made.clone()).is_none() {
            kept.len += cost;
        }
        made
    }

    /// The `Link` lines of a target; none unless there are mirrors.
    pub(crate) fn links(&self, path: &str) -> Vec<String> {
        if self.site.mirrors.is_empty() { Vec::new() } else { self.site.links(path, self.https) }
    }

    /// Where a target is to be fetched first: at the preferred mirror of our own scheme, or here.
    pub(crate) fn first(&self, path: &str) -> Option<String> {
        let first = self.site.repositories().into_iter().find(|base| base.is_https() == self.https)?;
        Some(format!("{first}targets/{path}"))
    }
}
