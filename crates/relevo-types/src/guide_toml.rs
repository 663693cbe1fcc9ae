//! Reads a guide.

use toml::de::DeTable;

use crate::{
    guide::{Condition, GuideStep, NAMES, Piece, SharedGuide, StepKind, pieces},
    manifest_reader::{At, ManifestError, Reader, get, read},
};

impl SharedGuide {
    /// Reads and checks a guide.
    ///
    /// # Errors
    /// [`ManifestError`] with every problem that was found, each with key and line.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        Ok(read(text, Reader::shared_guide)?.value)
    }
}

impl Reader {
    fn shared_guide(&mut self, table: &DeTable<'_>) -> Option<SharedGuide> {
        self.unknown_keys("", table, &["id", "title", "steps"]);
        let id = self.required(table, "id", "the guide's id").and_then(|at| self.message_id(&at));
        let title = self.required(table, "title", "what the guide is about").and_then(|at| self.text(&at));
        let at = self.required(table, "steps", "the steps")?;
        let items = self.list(&at);
        if items.is_empty() {
            self.value(&at, "a list of at least one step");
        }
        let mut steps: Vec<GuideStep> = Vec::new();
        for item in &items {
            let Some(step) = self.guide_step(item) else { continue };
            if steps.iter().any(|other| other.id == step.id) {
                let table = item.value.get_ref().as_table();
                let id = table.and_then(|table| get(table, &item.key, "id"));
                self.value(id.as_ref().unwrap_or(item), "an id that no other step has");
            }
            steps.push(step);
        }
        Some(SharedGuide { id: id?, title: title?, steps })
    }

    fn guide_step(&mut self, at: &At<'_>) -> Option<GuideStep> {
        let table = self.table(at)?;
        self.unknown_keys(&at.key, table, &["id", "kind", "text", "command", "link", "when"]);
        let id = self.required_in(table, &at.key, "id", "the step's id").and_then(|at| self.message_id(&at));
        let kind = get(table, &at.key, "kind").map(|at| self.choice(&at, &StepKind::ALL));
        let text = self.required_in(table, &at.key, "text", "what to do").and_then(|at| self.pattern(&at));
        let when = get(table, &at.key, "when").map(|at| self.list(&at)).unwrap_or_default();
        Some(GuideStep {
            kind: kind.unwrap_or(Some(StepKind::Step))?,
            command: get(table, &at.key, "command").and_then(|at| self.pattern(&at)),
            link: get(table, &at.key, "link").and_then(|at| self.link(&at)),
            when: when.iter().filter_map(|at| self.choice(at, &Condition::ALL)).collect(),
            id: id?,
            text: text?,
        })
    }

    /// A text with names of facts in it.
    fn pattern(&mut self, at: &At<'_>) -> Option<String> {
        let text = self.text(at)?;
        let fine = |piece: &Piece<'_>| match piece {
            Piece::Text(text) => !text.contains(['{', '}']),
            Piece::Name(name) => NAMES.contains(name),
        };
        if !pieces(&text).iter().all(fine) {
            let names = NAMES.map(|name| format!("{{ ${name} }}")).join(", ");
            self.value(at, &format!("a text whose braces are one of {names}"));
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#"
        id = "trial"
        title = "A trial"
        [[steps]]
        id = "one"
        text = "Hold { $bootloader-buttons }."
        [[steps]]
        id = "two"
        kind = "warning"
        text = "Flash { $first }."
        command = "fastboot flash { $first } { $first }.img"
        link = "https://example.org/"
        when = ["ab", "first"]
    "#;

    fn problems(from: &str, to: &str) -> Vec<String> {
        assert!(TEXT.contains(from), "{from}");
        let error = SharedGuide::parse(&TEXT.replace(from, to)).expect_err(to);
        error.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reads_a_guide() {
        let guide = SharedGuide::parse(TEXT).unwrap();

        assert_eq!((guide.id.as_str(), guide.steps.len()), ("trial", 2));
        assert_eq!(guide.steps[0].kind, StepKind::Step);
        assert_eq!(guide.steps[1].when, [Condition::Ab, Condition::First]);
        assert_eq!(guide.message(None), "guide-trial");
        assert_eq!(guide.message(Some(&guide.steps[1])), "guide-trial-two");
    }

    #[test]
    fn names_key_and_line() {
        assert_eq!(
            problems("\"two\"", "\"one\""),
            ["line 8: steps[1].id must be an id that no other step has; it is \"one\""]
        );
        assert_eq!(
            problems("when = [\"ab\"", "when = [\"a\""),
            ["line 13: steps[1].when[0] must be one of ab, models, firmware, first, start-buttons, start-menu, \
             start-reboot, start-boot; it is \"a\""]
        );
        assert_eq!(problems("kind =", "kin ="), ["line 9: unknown key steps[1].kin; did you mean steps[1].kind?"]);
        for (from, to) in
            [("{ $bootloader-buttons }", "{ $buttons }"), ("Hold {", "Hold { {"), ("buttons }", "buttons}")]
        {
            let found = problems(from, to);
            assert!(found[0].starts_with("line 6: steps[0].text must be a text whose braces are one of"), "{found:?}");
        }
        assert_eq!(problems("\"trial\"", "\"Trial\"").len(), 1);
        assert_eq!(problems("title = \"A trial\"", ""), ["title is missing; expected what the guide is about"]);
    }

    #[test]
    fn damage_is_an_error_or_another_guide_but_never_a_panic() {
        for end in 0..TEXT.len() {
            let _ = SharedGuide::parse(&TEXT[..end]);
        }
        for position in 0..TEXT.len() {
            for byte in [b'"', b'[', b'\n', b'=', b'{', b'x'] {
                let mut bytes = TEXT.as_bytes().to_vec();
                bytes[position] = byte;
                let _ = SharedGuide::parse(&String::from_utf8(bytes).unwrap());
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
            let _ = SharedGuide::parse(&text);
            let step = GuideStep { id: String::new(), kind: StepKind::Note, text: text.clone(), command: Some(text), link: None, when: Vec::new() };
            // Without facts, a pattern stays as it is.
            prop_assert_eq!(step.english(&Default::default()), step.text.clone());
        }
    }
}
