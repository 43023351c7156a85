//! Text for systemd's unit files.

use minijinja::{Environment, UndefinedBehavior};

use super::input::UserDataError;

/// One word of an `ExecStart=` line: quoted, with `%`, `$`, `"` and `\` escaped.
pub(super) fn word(text: &str) -> Result<String, UserDataError> {
    quoted("a kubelet flag", text, &['%', '$'])
}

/// One assignment of an `Environment=` line; `$` has no meaning there.
pub(super) fn assignment(name: &str, value: &str) -> Result<String, UserDataError> {
    Ok(format!(
        "Environment={}\n",
        quoted("a proxy", &format!("{name}={value}"), &['%'])?
    ))
}

fn quoted(field: &'static str, text: &str, doubled: &[char]) -> Result<String, UserDataError> {
    if text.chars().any(char::is_control) {
        return Err(UserDataError::ControlCharacter { field });
    }
    let mut word = String::with_capacity(text.len() + 2);
    word.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => word.extend(['\\', c]),
            c if doubled.contains(&c) => word.extend([c, c]),
            c => word.push(c),
        }
    }
    word.push('"');
    Ok(word)
}

/// Fills a template.
pub(super) fn fill(template: &str, values: &minijinja::Value) -> Result<String, UserDataError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let text = environment.render_str(template, values);
    // The engine drops the template's last line break.
    text.map(|text| text + "\n")
        .map_err(|error| UserDataError::Template(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("a b", "\"a b\"")]
    #[case("100%", "\"100%%\"")]
    #[case("$HOME", "\"$$HOME\"")]
    #[case("\"; rm -rf /", "\"\\\"; rm -rf /\"")]
    #[case("back\\slash", "\"back\\\\slash\"")]
    fn no_text_can_leave_its_word(#[case] text: &str, #[case] quoted: &str) {
        assert_eq!(word(text).unwrap(), quoted);
    }

    #[test]
    fn no_text_can_leave_its_line() {
        assert!(word("v\nExecStartPost=/bin/sh").is_err());
        assert!(assignment("A", "b\nExecStartPost=/bin/sh").is_err());
        assert_eq!(assignment("A", "b%c$d").unwrap(), "Environment=\"A=b%%c$d\"\n");
    }
}
