//! The keys at hand: files of the maintainer's directory, and programs that sign with keys elsewhere.
//!
//! Which key signs for a role is for the repository to say; here it is only found by its id.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, rc::Rc};

use anyhow::Context;
use relevo_meta::{
    author::RoleKeys,
    keys::{PrivateKey, PublicKey, SignError, Signer},
};
use relevo_repo::{Need, Signers};

use crate::{
    args::PassphraseFrom,
    durable::read_text,
    error::CliError,
    external::{CommandSigner, SignerSettings},
    home::{Home, names},
    keys::{self, MAX_KEY},
    session::{Passphrase, Session},
};

/// The keys of a maintainer's directory. The passphrase is asked for when the first file has to be opened.
pub(crate) struct Keyring<'a> {
    session: &'a Session<'a>,
    home: &'a Home,
    from: &'a PassphraseFrom,
    passphrase: RefCell<Option<Passphrase>>,
    opened: RefCell<BTreeMap<String, Rc<PrivateKey>>>,
    held: Vec<Held>,
}

/// A key at hand.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// What it is called here: its file's name without the ending, or its name in `relevo.toml`.
    pub(crate) name: String,
    pub(crate) public: PublicKey,
    pub(crate) place: Place,
}

impl Held {
    /// Whether it is meant for the role.
    pub(crate) fn is_for(&self, role: &str) -> bool {
        match &self.place {
            Place::File => true,
            Place::Command(settings) => settings.is_for(role),
        }
    }
}

/// Where a private key is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In `keys/<name>.key`.
    File,
    /// With a program.
    Command(SignerSettings),
}

/// Somebody at hand who signs.
#[derive(Debug)]
pub(crate) enum Hand {
    File(Rc<PrivateKey>),
    Command(Box<CommandSigner>),
}

impl Signer for Hand {
    fn public(&self) -> &PublicKey {
        match self {
            Self::File(key) => key.public(),
            Self::Command(signer) => signer.public(),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        match self {
            Self::File(key) => key.sign(message),
            Self::Command(signer) => signer.sign(message),
        }
    }
}

impl<'a> Keyring<'a> {
    /// Looks which keys there are; opens none.
    pub(crate) fn open(session: &'a Session<'a>, home: &'a Home, from: &'a PassphraseFrom) -> Result<Self, CliError> {
        let mut held = Vec::new();
        for settings in &home.settings.signer {
            let path = home.dir().join(&settings.public_key);
            let public = keys::read_public(&path)?;
            held.push(Held { name: settings.name.clone(), public, place: Place::Command(settings.clone()) });
        }
        for name in file_names(home)? {
            if let Some(public) = home.public_key(&name)? {
                held.push(Held { name, public, place: Place::File });
            }
        }
        let (passphrase, opened) = (RefCell::new(None), RefCell::new(BTreeMap::new()));
        Ok(Self { session, home, from, passphrase, opened, held })
    }

    /// Looks again which keys there are; the passphrase is known already.
    pub(crate) fn again(self) -> Result<Self, CliError> {
        let fresh = Self::open(self.session, self.home, self.from)?;
        Ok(Self { passphrase: self.passphrase, opened: self.opened, ..fresh })
    }

    /// The passphrase of the key files.
    pub(crate) fn passphrase(&self) -> anyhow::Result<Passphrase> {
        if let Some(known) = &*self.passphrase.borrow() {
            return Ok(known.clone());
        }
        let passphrase = keys::passphrase(self.session, self.from)?;
        *self.passphrase.borrow_mut() = Some(passphrase.clone());
        Ok(passphrase)
    }

    /// Fails if the passphrase opens none of the files that are here: before a new key is made with it.
    pub(crate) fn check_passphrase(&self) -> anyhow::Result<()> {
        let first = self.held.iter().rev().find(|held| matches!(held.place, Place::File));
        first.map_or(Ok(()), |held| self.file(&held.name).map(drop))
    }

    /// All keys at hand.
    pub(crate) fn held(&self) -> &[Held] {
        &self.held
    }

    /// The keys at hand that may sign for a role and are among these; the one that is called like the role first.
    pub(crate) fn of(&self, role: &str, keys: &RoleKeys) -> Vec<&Held> {
        let mut found: Vec<&Held> = Vec::new();
        for held in self.held.iter().filter(|held| held.is_for(role) && keys.keys.contains(&held.public)) {
            if !found.iter().any(|known| known.public == held.public) {
                found.push(held);
            }
        }
        found.sort_by_key(|held| held.name != role);
        found
    }

    /// Opens a key for signing.
    pub(crate) fn hand(&self, held: &Held, subject: &str) -> anyhow::Result<Hand> {
        match &held.place {
            Place::File => self.file(&held.name).map(Hand::File),
            Place::Command(settings) => {
                let signer = CommandSigner::new(settings, self.home.dir(), held.public.clone(), subject);
                Ok(Hand::Command(Box::new(signer)))
            }
        }
    }

    /// Those who sign, up to the threshold of each group.
    ///
    /// # Errors
    /// [`CliError::NotAtHand`] if too few are here.
    pub(crate) fn signers(&self, needs: &[Need]) -> anyhow::Result<Signers> {
        let mut chosen: Vec<(&str, Vec<&Held>)> = Vec::new();
        for need in needs {
            let mut hands: Vec<&Held> = Vec::new();
            for group in &need.groups {
                let mut found = self.of(&need.role, group);
                if found.len() < group.threshold {
                    return Err(self.missing(&need.role, group, found.len()).into());
                }
                // Who signs for another group already, signs for this one too.
                found.sort_by_key(|held| !hands.iter().any(|known| known.public == held.public));
                found.truncate(group.threshold);
                hands.extend(
                    found
                        .into_iter()
                        .filter(|held| !hands.iter().any(|known| known.public == held.public))
                        .collect::<Vec<_>>(),
                );
            }
            let also = RoleKeys { keys: need.also.clone(), threshold: 0 };
            let also = self.of(&need.role, &also);
            hands.extend(
                also.into_iter()
                    .filter(|held| !hands.iter().any(|known| known.public == held.public))
                    .collect::<Vec<_>>(),
            );
            chosen.push((&need.role, hands));
        }
        let mut signers = Signers::new();
        for (role, hands) in chosen {
            for held in hands {
                let hand = self.hand(held, role).with_context(|| format!("could not sign for the role {role}"))?;
                signers.add(role, hand);
            }
        }
        Ok(signers)
    }

    /// What is said when too few of a role's keys are here.
    pub(crate) fn missing(&self, role: &str, keys: &RoleKeys, held: usize) -> CliError {
        CliError::NotAtHand { role: role.to_owned(), threshold: keys.threshold, keys: keys.keys.len(), held }
    }

    fn file(&self, name: &str) -> anyhow::Result<Rc<PrivateKey>> {
        if let Some(key) = self.opened.borrow().get(name) {
            return Ok(Rc::clone(key));
        }
        let key = Rc::new(self.home.key(name, &self.passphrase()?)?);
        self.opened.borrow_mut().insert(name.to_owned(), Rc::clone(&key));
        Ok(key)
    }
}

/// Names of all public keys that are known here, by id: those at hand, and those of others.
pub(crate) fn known_names(home: &Home) -> Result<BTreeMap<String, String>, CliError> {
    let mut known = BTreeMap::new();
    for file in names(&home.keys())? {
        if let Some(name) = file.strip_suffix(".pub")
            && let Ok(Some(key)) = home.public_key(name)
        {
            known.insert(key.key_id(), name.to_owned());
        }
    }
    for settings in &home.settings.signer {
        if let Ok(key) = keys::read_public(&home.dir().join(&settings.public_key)) {
            known.insert(key.key_id(), settings.name.clone());
        }
    }
    Ok(known)
}

/// Names of the key files of roles, without the ending; those for OTA zips are another kind.
pub(crate) fn file_names(home: &Home) -> Result<Vec<String>, CliError> {
    let names = names(&home.keys())?;
    let keys = names.iter().filter_map(|name| name.strip_suffix(".key")).filter(|name| !name.ends_with(".ota"));
    Ok(keys.map(str::to_owned).collect())
}

/// A public key by its file or by its name here.
pub(crate) fn public_by_name(home: Option<&Home>, text: &str) -> Result<PublicKey, CliError> {
    let file = PathBuf::from(text);
    if read_text(&file, MAX_KEY).is_ok_and(|found| found.is_some()) {
        return keys::read_public(&file);
    }
    if let Some(home) = home {
        if let Some(settings) = home.settings.signer.iter().find(|settings| settings.name == text) {
            return keys::read_public(&home.dir().join(&settings.public_key));
        }
        if !text.contains('/')
            && let Some(key) = home.public_key(text)?
        {
            return Ok(key);
        }
    }
    Err(CliError::NoKey { path: file })
}
