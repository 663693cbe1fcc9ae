//! Boot control: damage, cuts, and boots in any order.

use std::fs;

use proptest::prelude::*;
use relevo_updater::boot::{BACKUP_OFFSET, BootControl, BootError, BootFile, Booted, Slot, SlotState, bootloader_boot};

use crate::support::{Cut, CutDisk, NoSync};

fn trial() -> BootControl {
    let mut control = BootControl::factory(Slot::A);
    control.set(Slot::B, SlotState::trial(2));
    control.active = Slot::B;
    control
}

#[test]
fn encodes_as_documented() {
    let bytes = trial().encode();

    assert_eq!(&bytes[..16], b"RVBC\x01\x01\0\0\x03\0\0\0\x01\x02\0\0");
    assert_eq!(BootControl::decode(&bytes), Some(trial()));
}

#[test]
fn any_damage_to_one_copy_leaves_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let file = BootFile::new(&path);
    file.write(&NoSync, &trial()).unwrap();
    let whole = fs::read(&path).unwrap();
    let expected = file.read().unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x21;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(file.read().unwrap(), expected, "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(file.read().unwrap(), expected, "cut at {at}");
    }

    fs::write(directory.path().join("control.backup"), b"also damaged").unwrap();
    assert!(matches!(file.read(), Err(BootError::Damaged { .. })));
    fs::write(&path, &whole).unwrap();
    file.repair(&NoSync).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(file.read().unwrap().active, Slot::B, "the backup was made whole again");
}

#[test]
fn a_cut_at_any_step_of_a_write_leaves_the_old_or_the_new_state() {
    for in_place in [false, true] {
        for cut in [Cut::Kill, Cut::Power, Cut::Torn] {
            for at in 0.. {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("control");
                fs::write(&path, vec![0; usize::try_from(BACKUP_OFFSET).unwrap() + 4096]).unwrap();
                let file = if in_place { BootFile::in_place(&path) } else { BootFile::new(&path) };
                let old = file.write(&NoSync, &BootControl::factory(Slot::A)).unwrap();
                let disk = CutDisk::new(at, cut);

                let new = file.write(&disk, &trial());

                let found = file.read().unwrap();
                if !disk.was_cut() {
                    assert_eq!(found, new.unwrap());
                    break;
                }
                assert!(found.active == old.active && found == old || found.active == Slot::B, "{cut:?} at {at}");
                let repaired = file.repair(&NoSync).unwrap();
                assert_eq!(repaired.active, found.active, "{cut:?} at {at}: repairing keeps what counts");
            }
        }
    }
}

#[test]
fn counts_tries_down_only_while_a_trial_is_pending() {
    let directory = tempfile::tempdir().unwrap();
    let file = BootFile::new(&directory.path().join("control"));
    let booted = directory.path().join("booted");
    let written = file.write(&NoSync, &BootControl::factory(Slot::A)).unwrap();

    for boot in 0..100 {
        let answer = bootloader_boot(&NoSync, &file, &booted, &boot.to_string()).unwrap();
        assert_eq!(answer.slot, Slot::A);
    }

    assert_eq!(file.read().unwrap(), written, "a confirmed slot is booted without a write");
}

#[test]
fn boots_the_last_confirmed_slot_when_every_slot_is_exhausted() {
    let directory = tempfile::tempdir().unwrap();
    let file = BootFile::new(&directory.path().join("control"));
    let booted = directory.path().join("booted");
    let mut control = trial();
    control.set(Slot::A, SlotState::trial(0));
    control.set(Slot::B, SlotState::trial(0));
    file.write(&NoSync, &control).unwrap();

    assert_eq!(bootloader_boot(&NoSync, &file, &booted, "x").unwrap().slot, Slot::A);

    control.committed = Slot::B;
    control.set(Slot::B, SlotState::UNBOOTABLE);
    control.set(Slot::A, SlotState::UNBOOTABLE);
    file.write(&NoSync, &control).unwrap();
    assert_eq!(bootloader_boot(&NoSync, &file, &booted, "y").unwrap().slot, Slot::B);
}

#[test]
fn reads_what_bootloaders_report() {
    let directory = tempfile::tempdir().unwrap();
    let (booted, boot_id) = (directory.path().join("booted"), directory.path().join("boot_id"));
    fs::write(&boot_id, "e9b5\n").unwrap();
    for (text, slot) in [("a", Slot::A), ("_b\n", Slot::B), ("{\"slot\":\"b\",\"boot_id\":\"7\"}", Slot::B)] {
        fs::write(&booted, text).unwrap();
        let read = Booted::read(&booted, Some(&boot_id)).unwrap();
        assert_eq!(read, Booted { slot, boot_id: "e9b5".to_owned() });
    }
    for text in
        ["", "c", "a b", "{\"slot\":\"c\",\"boot_id\":\"7\"}", "{\"slot\":\"a\"}", "{\"slot\":\"a\",\"boot_id\":\"\"}"]
    {
        fs::write(&booted, text).unwrap();
        assert!(matches!(Booted::read(&booted, None), Err(BootError::Booted { .. })), "{text}");
    }
}

proptest! {
    #[test]
    fn whatever_boot_control_holds_a_slot_is_booted_and_tries_run_out(bytes in proptest::array::uniform4(0u8..4), tries in 0u8..8) {
        let directory = tempfile::tempdir().unwrap();
        let file = BootFile::new(&directory.path().join("control"));
        let booted = directory.path().join("booted");
        let slot = |bit: u8| if bit & 1 == 0 { Slot::A } else { Slot::B };
        let mut control = BootControl::factory(slot(bytes[0]));
        (control.active, control.previous) = (slot(bytes[1]), slot(bytes[2]));
        control.set(slot(bytes[3]), SlotState::trial(tries));
        file.write(&NoSync, &control).unwrap();

        let slots: Vec<Slot> = (0..20).map(|boot| {
            bootloader_boot(&NoSync, &file, &booted, &boot.to_string()).unwrap().slot
        }).collect();

        // After the tries are used up the choice never changes again.
        prop_assert!(slots[8..].iter().all(|slot| *slot == slots[19]), "{slots:?}");
        prop_assert_eq!(file.read().unwrap().committed, control.committed);
    }

    #[test]
    fn no_bytes_at_all_make_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Some(control) = BootControl::decode(&bytes) {
            prop_assert_eq!(&control.encode()[..], &bytes[..]);
        }
    }
}
