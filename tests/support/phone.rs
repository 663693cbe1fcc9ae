//! A pretend phone: a directory with two slots, boot control and a configuration, as the real updater finds them.
//!
//! ```text
//! PHONE/updater.toml            the configuration
//! PHONE/root.json               the root of trust, as the ROM ships it
//! PHONE/slots/{a,b}/NAME.img    the partitions
//! PHONE/slots/{a,b}/build.json  which build a slot holds
//! PHONE/boot/control            boot control
//! PHONE/boot/booted             what the bootloader booted
//! PHONE/state/                  what the updater remembers
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use relevo_types::{BuildId, Channel, Codename, Vendor};
use relevo_updater::{
    boot::{BootControl, BootFile, Slot},
    state::BuildRecord,
};

use crate::{
    images::{self, Images},
    program::{Said, command, run},
};

/// What a new phone is made of.
#[derive(Debug, Clone)]
pub struct Factory<'a> {
    /// Who made it.
    pub vendor: Vendor,
    /// Which device it is.
    pub codename: Codename,
    /// The channel that it follows.
    pub channel: Channel,
    /// Where it looks for updates.
    pub mirrors: Vec<String>,
    /// The repository's first root metadata.
    pub root: &'a Path,
    /// A directory with the images that it leaves the factory with.
    pub images: &'a Path,
    /// The build's id.
    pub build: BuildId,
    /// The build's date, in seconds since 1970.
    pub timestamp: i64,
    /// More lines for the configuration's section `[network]`.
    pub network: &'a str,
}

/// A pretend phone.
#[derive(Debug, Clone)]
pub struct Phone {
    directory: PathBuf,
}

impl Phone {
    /// Makes a phone with the images in slot a and nothing in slot b.
    ///
    /// # Errors
    /// The file that could not be read or written, or what `relevo-updater factory` said.
    pub fn make(directory: &Path, factory: &Factory<'_>) -> anyhow::Result<Self> {
        let phone = Self { directory: directory.to_owned() };
        copy(factory.images, &phone.slot(Slot::A))?;
        fs::create_dir_all(phone.slot(Slot::B)).context("could not make slot b")?;
        fs::copy(factory.root, directory.join("root.json"))
            .with_context(|| format!("could not copy {}", factory.root.display()))?;
        phone.configure(factory)?;
        let (build, timestamp) = (factory.build.as_str(), factory.timestamp.to_string());
        let said = phone.run(&["factory", "--build", build, "--timestamp", &timestamp]);
        anyhow::ensure!(said.status.success(), "the phone could not be prepared: {}", said.stderr);
        Ok(phone)
    }

    /// A phone that is there already.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Writes the configuration.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure(&self, factory: &Factory<'_>) -> anyhow::Result<()> {
        let text = format!(
            "mirrors = {mirrors:?}\nroot = \"root.json\"\nvendor = \"{vendor}\"\ncodename = \"{codename}\"\n\
             channel = \"{channel}\"\nstate_dir = \"state\"\n\n[block]\nslot_a = \"slots/a\"\nslot_b = \"slots/b\"\n\
             build_file = \"slots/{{slot}}/build.json\"\nboot_control = \"boot/control\"\nbooted = \"boot/booted\"\n\n\
             [network]\n{network}\n",
            mirrors = factory.mirrors,
            vendor = factory.vendor,
            codename = factory.codename,
            channel = factory.channel,
            network = factory.network,
        );
        fs::write(self.config(), text).context("could not write the configuration")
    }

    /// A copy of the phone in another directory.
    ///
    /// # Errors
    /// The file that could not be copied.
    pub fn copy(&self, directory: &Path) -> anyhow::Result<Self> {
        copy(&self.directory, directory)?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.directory.join("updater.toml")
    }

    fn boot_file(&self) -> BootFile {
        BootFile::new(&self.directory.join("boot/control"))
    }

    /// Switches it off and on: the bootloader chooses a slot.
    ///
    /// # Errors
    /// What `relevo-updater pretend-boot` said.
    pub fn boot(&self) -> anyhow::Result<Slot> {
        let said = self.run(&["pretend-boot"]);
        anyhow::ensure!(said.status.success(), "the phone does not boot: {}", said.stderr);
        Slot::parse(said.stdout.trim()).with_context(|| format!("no slot: {:?}", said.stdout))
    }

    /// What boot control says.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn boot_control(&self) -> anyhow::Result<BootControl> {
        Ok(self.boot_file().read()?)
    }

    /// The images in a slot.
    pub fn images(&self, slot: Slot) -> Images {
        images::read(&self.slot(slot))
    }

    /// The directory of a slot.
    pub fn slot(&self, slot: Slot) -> PathBuf {
        self.directory.join("slots").join(slot.letter())
    }

    /// The build that a slot says it holds.
    pub fn build(&self, slot: Slot) -> Option<BuildRecord> {
        serde_json::from_slice(&fs::read(self.slot(slot).join("build.json")).ok()?).ok()
    }

    /// A command of the updater on this phone.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = command("relevo-updater");
        command.arg("--config").arg(self.config()).args(words);
        command
    }

    /// Runs a command of the updater on this phone to its end.
    pub fn run(&self, words: &[&str]) -> Said {
        run(self.command(words))
    }
}

/// Copies a directory with all that is in it.
///
/// # Errors
/// The file that could not be copied.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("could not make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("could not list {}", from.display()))? {
        let path = entry?.path();
        let target = to.join(path.file_name().context("a listed file has a name")?);
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).with_context(|| format!("could not copy {}", path.display()))?;
        }
    }
    Ok(())
}
