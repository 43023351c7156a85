//! Reads a systemd service unit with its drop-ins and expands `ExecStart` as systemd would.

use std::collections::BTreeMap;

use thiserror::Error;

/// The parts of a service unit that make up its command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unit {
    /// `Environment=`, later ones win.
    pub environment: BTreeMap<String, String>,
    /// `EnvironmentFile=`, in order; they win over `environment`.
    pub environment_files: Vec<EnvironmentFile>,
    /// `ExecStart=` lines that are left after the resets of the drop-ins, unexpanded.
    pub exec_start: Vec<String>,
}

/// One `EnvironmentFile=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentFile {
    /// Absolute path in the guest.
    pub path: String,
    /// Written with a leading `-`: the file may be missing.
    pub optional: bool,
}

/// Why systemd would not start the unit.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UnitError {
    /// A Type=simple service has exactly one.
    #[error("the unit has {0} ExecStart lines, systemd wants exactly one")]
    ExecStart(usize),
    /// A quote is not closed.
    #[error("unbalanced quoting in {0:?}")]
    Quoting(String),
    /// The file of `EnvironmentFile=` is missing.
    #[error("Failed to load environment files: {0}: No such file or directory")]
    EnvironmentFile(String),
    /// A `%` specifier the simulated guest does not know.
    #[error("unknown specifier in {0:?}")]
    Specifier(String),
}

/// Parses the unit file, then its drop-ins, in the order given.
pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Unit, UnitError> {
    let mut unit = Unit::default();
    for text in texts {
        let mut section = String::new();
        for line in logical_lines(text) {
            let line = line.trim();
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.clone_into(&mut section);
            } else if section == "Service"
                && let Some((key, value)) = line.split_once('=')
            {
                unit.assign(key.trim(), value.trim())?;
            }
        }
    }
    Ok(unit)
}

/// Joins continued lines; comments are dropped, also between continued lines.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = String::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with('#') || trimmed.starts_with(';') {
            continue;
        }
        if let Some(head) = line.strip_suffix('\\') {
            pending.push_str(head);
            pending.push(' ');
        } else {
            pending.push_str(line);
            lines.push(std::mem::take(&mut pending));
        }
    }
    if !pending.is_empty() {
        lines.push(pending);
    }
    lines
}

impl Unit {
    fn assign(&mut self, key: &str, value: &str) -> Result<(), UnitError> {
        match (key, value.is_empty()) {
            ("ExecStart", true) => self.exec_start.clear(),
            ("ExecStart", false) => self.exec_start.push(value.to_owned()),
            ("Environment", true) => self.environment.clear(),
            ("Environment", false) => {
                for word in words(value)? {
                    if let Some((name, text)) = word.text.split_once('=') {
                        self.environment.insert(name.to_owned(), text.to_owned());
                    }
                }
            }
            ("EnvironmentFile", true) => self.environment_files.clear(),
            ("EnvironmentFile", false) => {
                let path = value.strip_prefix('-').unwrap_or(value).to_owned();
                self.environment_files.push(EnvironmentFile {
                    path,
                    optional: value.starts_with('-'),
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// The command line: the program and its arguments. `read` gives the text of a file of the guest.
    pub fn command(
        &self,
        hostname: &str,
        read: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<String>, UnitError> {
        let [line] = self.exec_start.as_slice() else {
            return Err(UnitError::ExecStart(self.exec_start.len()));
        };
        let mut environment = self.environment.clone();
        for file in &self.environment_files {
            match read(&file.path) {
                Some(text) => environment.extend(environment_file(&text)?),
                None if file.optional => {}
                None => return Err(UnitError::EnvironmentFile(file.path.clone())),
            }
        }
        let mut command = Vec::new();
        for word in words(line.trim_start_matches(['-', '@', ':', '+', '!']))? {
            let text = specifiers(&word.text, hostname)?;
            match text.strip_prefix('$') {
                // `$NAME` as a word of its own is split at whitespace, and vanishes when unset.
                Some(name) if !word.quoted && !name.starts_with(['{', '$']) => {
                    let value = environment.get(name).map(String::as_str).unwrap_or_default();
                    command.extend(words(value)?.into_iter().map(|part| part.text));
                }
                _ => command.push(braces(&text, &environment)),
            }
        }
        Ok(command)
    }
}

/// `NAME=value` lines of an `EnvironmentFile`.
fn environment_file(text: &str) -> Result<BTreeMap<String, String>, UnitError> {
    let mut environment = BTreeMap::new();
    for line in logical_lines(text) {
        if let Some((name, value)) = line.split_once('=') {
            let parts: Vec<String> = words(value.trim())?.into_iter().map(|word| word.text).collect();
            environment.insert(name.trim().to_owned(), parts.join(" "));
        }
    }
    Ok(environment)
}

struct Word {
    text: String,
    quoted: bool,
}

fn words(line: &str) -> Result<Vec<Word>, UnitError> {
    let mut words = Vec::new();
    let mut current: Option<Word> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, c) if c.is_whitespace() => words.extend(current.take()),
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                current
                    .get_or_insert(Word {
                        text: String::new(),
                        quoted: true,
                    })
                    .quoted = true;
            }
            (_, c) => {
                let word = current.get_or_insert(Word {
                    text: String::new(),
                    quoted: false,
                });
                match c {
                    '\\' => word.text.extend(characters.next().map(|next| match next {
                        'n' => '\n',
                        't' => '\t',
                        's' => ' ',
                        other => other,
                    })),
                    other => word.text.push(other),
                }
            }
        }
    }
    if quote.is_some() {
        return Err(UnitError::Quoting(line.to_owned()));
    }
    words.extend(current);
    Ok(words)
}

fn specifiers(text: &str, hostname: &str) -> Result<String, UnitError> {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('%') => out.push('%'),
            Some('H') => out.push_str(hostname),
            Some('l') => out.push_str(hostname.split('.').next().unwrap_or_default()),
            _ => return Err(UnitError::Specifier(text.to_owned())),
        }
    }
    Ok(out)
}

/// Replaces `${NAME}` and `$$`; a bare `$NAME` within a word stays as it is, as in systemd.
fn braces(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('{').and_then(|body| body.split_once('}')) {
            out.push_str(environment.get(name).map(String::as_str).unwrap_or_default());
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn command(texts: &[&str]) -> Result<Vec<String>, UnitError> {
        parse(texts.iter().copied())?.command("node-a", |path| {
            (path == "/etc/default/kubelet").then(|| "# comment\nEXTRA=\"--v=2 --a b\"\nNAME=n1\n".to_owned())
        })
    }

    #[rstest]
    #[case::plain("ExecStart=/usr/bin/kubelet --a=b", &["/usr/bin/kubelet", "--a=b"])]
    #[case::continued("ExecStart=/k \\\n  --a \\\n# comment\n  --b", &["/k", "--a", "--b"])]
    #[case::quoted("ExecStart=/k \"--a=b c\" '--d=\"'", &["/k", "--a=b c", "--d=\""])]
    #[case::escaped("ExecStart=/k a\\sb", &["/k", "a b"])]
    #[case::prefixed("ExecStart=-/k", &["/k"])]
    #[case::specifiers("ExecStart=/k --h=%H --p=50%%", &["/k", "--h=node-a", "--p=50%"])]
    #[case::word_is_split("Environment=\"A=--x --y\"\nExecStart=/k $A", &["/k", "--x", "--y"])]
    #[case::braces_are_one_word("Environment=\"A=x y\"\nExecStart=/k --a=${A}", &["/k", "--a=x y"])]
    #[case::bare_within_a_word_stays("Environment=A=x\nExecStart=/k --a=$A", &["/k", "--a=$A"])]
    #[case::unset_word_vanishes("ExecStart=/k $NO --a=${NO}", &["/k", "--a="])]
    #[case::dollar("ExecStart=/k --a=$$A", &["/k", "--a=$A"])]
    #[case::file("EnvironmentFile=/etc/default/kubelet\nExecStart=/k $EXTRA --n=${NAME}", &["/k", "--v=2", "--a", "b", "--n=n1"])]
    #[case::file_wins("Environment=NAME=x\nEnvironmentFile=/etc/default/kubelet\nExecStart=/k ${NAME}", &["/k", "n1"])]
    #[case::optional_file("EnvironmentFile=-/etc/none\nExecStart=/k", &["/k"])]
    #[case::last_assignment_wins("Environment=A=x\nEnvironment=A=y\nExecStart=/k ${A}", &["/k", "y"])]
    fn exec_start_is_expanded(#[case] service: &str, #[case] expected: &[&str]) {
        assert_eq!(
            command(&[&format!("[Unit]\nExecStart=/no\n[Service]\n{service}\n")]).unwrap(),
            expected
        );
    }

    #[test]
    fn a_drop_in_replaces_exec_start_after_an_empty_one() {
        let unit = "[Service]\nExecStart=/usr/bin/kubelet\n";
        let drop_in = "[Service]\nEnvironment=A=1\nExecStart=\nExecStart=/opt/kubelet ${A}\n";
        assert_eq!(command(&[unit, drop_in]).unwrap(), ["/opt/kubelet", "1"]);
    }

    #[rstest]
    #[case::none("Type=simple", UnitError::ExecStart(0))]
    #[case::two("ExecStart=/a\nExecStart=/b", UnitError::ExecStart(2))]
    #[case::missing_file("EnvironmentFile=/etc/none\nExecStart=/k", UnitError::EnvironmentFile("/etc/none".to_owned()))]
    #[case::quoting("ExecStart=/k \"a", UnitError::Quoting("/k \"a".to_owned()))]
    #[case::specifier("ExecStart=/k %Z", UnitError::Specifier("%Z".to_owned()))]
    fn what_systemd_would_not_start_is_refused(#[case] service: &str, #[case] expected: UnitError) {
        assert_eq!(
            command(&[&format!("[Service]\n{service}\n")]).unwrap_err(),
            expected
        );
    }
}
