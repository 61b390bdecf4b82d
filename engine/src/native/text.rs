//! Tokens to text as it streams: whole characters only, and nothing that may
//! yet turn out to be part of a stop text.

/// The text of one completion on its way out.
pub(super) struct TextStream {
    stops: Vec<String>,
    /// Bytes that do not yet make a whole character.
    bytes: Vec<u8>,
    /// Text held back because a stop may begin in it.
    held: String,
}

/// What became visible.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Visible {
    pub(super) text: String,
    /// A stop text came; nothing follows.
    pub(super) stopped: bool,
}

impl TextStream {
    pub(super) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.to_vec(),
            bytes: Vec::new(),
            held: String::new(),
        }
    }

    /// Adds a token's bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Visible {
        self.bytes.extend_from_slice(bytes);
        self.take_characters();
        if let Some(start) = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop))
            .min()
        {
            self.held.truncate(start);
            return Visible {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
        let keep = self.held.len() - self.possible_stop();
        let rest = self.held.split_off(keep);
        Visible {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }

    /// What is left when the completion ends otherwise.
    pub(super) fn finish(&mut self) -> String {
        let mut text = std::mem::take(&mut self.held);
        text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.bytes)));
        text
    }

    /// Moves whole characters from the bytes to the text; bytes that can no
    /// longer become one are replaced.
    fn take_characters(&mut self) {
        let mut done = 0;
        for chunk in self.bytes.utf8_chunks() {
            self.held.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty()
                || (done + invalid.len() == self.bytes.len() && unfinished(invalid))
            {
                break;
            }
            self.held.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
        self.bytes.drain(..done);
    }

    /// How many bytes at the end may be the beginning of a stop text.
    fn possible_stop(&self) -> usize {
        let text = self.held.as_bytes();
        let longest = |stop: &String| {
            let stop = stop.as_bytes();
            (1..stop.len().min(text.len() + 1))
                .rev()
                .find(|&n| text.ends_with(&stop[..n]))
        };
        self.stops.iter().filter_map(longest).max().unwrap_or(0)
    }
}

/// Whether bytes are the beginning of a character.
fn unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stops: &[&str]) -> TextStream {
        TextStream::new(&stops.iter().map(|&s| s.to_owned()).collect::<Vec<_>>())
    }

    /// All text that bytes, cut into pieces of `size`, become.
    fn all(stops: &[&str], bytes: &[u8], size: usize) -> (String, bool) {
        let mut stream = stream(stops);
        let mut text = String::new();
        for piece in bytes.chunks(size) {
            let visible = stream.push(piece);
            text.push_str(&visible.text);
            if visible.stopped {
                return (text, true);
            }
        }
        (text + &stream.finish(), false)
    }

    #[test]
    fn characters_are_never_split() {
        let text = "aé漢🙂 fin";
        for size in 1..8 {
            assert_eq!(all(&[], text.as_bytes(), size), (text.to_owned(), false));
        }
        let mut stream = stream(&[]);
        assert_eq!(stream.push(&"🙂".as_bytes()[..3]).text, "");
        assert_eq!(stream.push(&"🙂".as_bytes()[3..]).text, "🙂");
    }

    #[test]
    fn invalid_bytes_are_replaced_and_do_not_hold_up_the_rest() {
        for size in 1..4 {
            assert_eq!(
                all(&[], b"a\xffb\xe6\xbcc\xe6", size).0,
                "a\u{fffd}b\u{fffd}c\u{fffd}"
            );
        }
    }

    #[test]
    fn a_stop_is_found_across_pieces_and_is_not_shown() {
        for size in 1..12 {
            assert_eq!(
                all(&["STOP"], b"go on STOSTOP never", size),
                ("go on STO".to_owned(), true)
            );
            assert_eq!(
                all(&["xyz", "é!"], "abé!xyz".as_bytes(), size),
                ("ab".to_owned(), true)
            );
        }
    }

    #[test]
    fn half_a_stop_at_the_end_is_text() {
        for size in 1..5 {
            assert_eq!(
                all(&["STOP"], b"an STO", size),
                ("an STO".to_owned(), false)
            );
        }
    }

    #[test]
    fn only_what_may_be_a_stop_is_held_back() {
        let mut stream = stream(&["\n\n"]);
        assert_eq!(stream.push(b"one\n").text, "one");
        assert_eq!(stream.push(b"two").text, "\ntwo");
    }
}
