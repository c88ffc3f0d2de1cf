//! What a machine wrote to its console, as text: it is not trusted, and could hold anything that a terminal acts on.

/// Characters that a page shows of a console: its end.
const SHOWN: usize = 16_384;

/// The end of a console without escape sequences and control characters; what a carriage return wrote over is gone.
pub(super) fn plain(console: &str) -> String {
    let from = console.char_indices().rev().nth(SHOWN - 1).map_or(0, |(at, _)| at);
    let text = without_escapes(console.get(from..).unwrap_or_default());
    let over = |line: &str| line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default().to_owned();
    let lines: Vec<String> = text.split('\n').map(over).collect();
    let clean = |c: &char| *c == '\n' || *c == '\t' || !c.is_control();
    lines.join("\n").chars().filter(clean).collect()
}

/// ECMA-48: a control sequence ends with a byte from `@` to `~`; a string (title, link, picture) with BEL or ST; other escapes after
/// their intermediate bytes.
fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let opens = match c {
            '\u{1b}' => rest.next(),
            '\u{9b}' => Some('['),
            '\u{90}' | '\u{9d}' | '\u{98}' | '\u{9e}' | '\u{9f}' => Some(']'),
            _ => {
                plain.push(c);
                continue;
            }
        };
        match opens {
            Some('[') => drop(rest.find(|c| ('@'..='~').contains(c))),
            Some(']' | 'P' | 'X' | '^' | '_') => {
                while let Some(c) = rest.next() {
                    match c {
                        '\u{7}' | '\u{9c}' => break,
                        '\u{1b}' if rest.next_if_eq(&'\\').is_some() => break,
                        _ => {}
                    }
                }
            }
            Some(' '..='/') => drop(rest.find(|c| !(' '..='/').contains(c))),
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left() {
        let written = "\u{1b}[1;31mred\u{1b}[0m \u{1b}]0;title\u{7}a\u{1b}]8;;http://x\u{1b}\\b\u{1b}(Bc\u{9b}2Jd\u{90}q\u{9c}e\u{7}\u{8}\tf\r\n10%\r20%\r\nend\u{1b}";
        assert_eq!(plain(written), "red abcde\tf\n20%\nend");
    }

    #[test]
    fn only_the_end_is_shown() {
        let long = "ä".repeat(SHOWN) + "end";
        assert_eq!(plain(&long).chars().count(), SHOWN);
        assert!(plain(&long).ends_with("äend"));
        assert_eq!(plain(""), "");
    }
}
