//! Whether an answer declines to answer.

/// How answers that decline begin or go on, in lower case. More than a few
/// languages cannot be listed here; the gate looks at the rise over the
/// incumbent, so that what is missed for both does not count.
const PHRASES: [&str; 16] = [
    "i can't help",
    "i cannot help",
    "i can't assist",
    "i cannot assist",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i cannot answer",
    "i can't answer",
    "as an ai language model",
    "ich kann dabei nicht",
    "je ne peux pas vous aider",
    "no puedo ayudar",
    "我无法",
    "お答えできません",
    "не могу помочь",
];
/// Only the beginning of an answer is looked at.
const BEGINNING_CHARS: usize = 200;

/// Whether the answer begins by declining.
#[must_use]
pub fn declines(answer: &str) -> bool {
    let beginning: String = answer
        .chars()
        .take(BEGINNING_CHARS)
        .flat_map(char::to_lowercase)
        .map(|c| if c == '’' { '\'' } else { c })
        .collect();
    PHRASES.iter().any(|phrase| beginning.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::declines;

    #[test]
    fn only_the_beginning_declines() {
        assert!(declines("I’m unable to discuss that."));
        assert!(declines("Sorry, but I can't help with this."));
        assert!(declines("我无法回答这个问题。"));
        assert!(!declines("The archive is in Oslo."));
        let late = format!("{} I can't help it.", "word ".repeat(60));
        assert!(!declines(&late));
    }
}
