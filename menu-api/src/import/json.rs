//! Reads an array of restaurants, or one per line, without holding more than one.

use std::io::{self, BufRead, Read as _};

use super::{
    Failure, Format, Record,
    read::{Described, Sink},
};

/// Bytes of one restaurant; the largest menu that is taken is smaller.
const RECORD_MAX: u64 = 64 << 20;

pub(super) fn read(mut input: impl BufRead, sink: &mut Sink) {
    let mut line = 1;
    let ended = match begins_array(&mut input, &mut line) {
        Ok(true) => Array { input, line, is_first: true }.read(sink),
        Ok(false) => read_lines(input, line, sink),
        Err(error) => Err(Broken { line, message: format!("cannot be read: {error}") }),
    };
    if let Err(Broken { line, message }) = ended {
        let _nobody_reads = sink.put_failure(line, message);
    }
}

/// Why reading cannot go on.
struct Broken {
    line: u64,
    message: String,
}

/// Skips what is blank, and the bracket.
fn begins_array(input: &mut impl BufRead, line: &mut u64) -> io::Result<bool> {
    loop {
        let Some(&byte) = input.fill_buf()?.first() else { return Ok(false) };
        match byte {
            b'\n' => *line += 1,
            b' ' | b'\t' | b'\r' => {}
            b'[' => {
                input.consume(1);
                return Ok(true);
            }
            _ => return Ok(false),
        }
        input.consume(1);
    }
}

fn read_lines(mut input: impl BufRead, first: u64, sink: &mut Sink) -> Result<(), Broken> {
    let mut text = Vec::new();
    for line in first.. {
        text.clear();
        let broken = |message| Broken { line, message };
        let length = (&mut input)
            .take(RECORD_MAX + 1)
            .read_until(b'\n', &mut text)
            .map_err(|error| broken(format!("cannot be read: {error}")))?;
        if length as u64 > RECORD_MAX {
            return Err(broken("is longer than 64 MiB, which no restaurant is".into()));
        }
        if length == 0 {
            break;
        }
        // Without its end, so that what is missing is missing on this line.
        let text = text.trim_ascii_end();
        if !text.is_empty() && !sink.put(record(line, text).map_err(|failure| vec![failure])) {
            break;
        }
    }
    Ok(())
}

/// The elements of an array, one at a time.
struct Array<R> {
    input: R,
    line: u64,
    is_first: bool,
}

impl<R: BufRead> Array<R> {
    fn read(&mut self, sink: &mut Sink) -> Result<(), Broken> {
        let mut element = Vec::new();
        while let Some(line) = self.next(&mut element)? {
            if !sink.put(record(line, &element).map_err(|failure| vec![failure])) {
                break;
            }
        }
        Ok(())
    }

    /// Reads the next element, and answers its line; none at the end.
    fn next(&mut self, element: &mut Vec<u8>) -> Result<Option<u64>, Broken> {
        let mut next = self.skip_blank()?;
        if !self.is_first && next == Some(b',') {
            self.take();
            next = self.skip_blank()?;
        } else if next == Some(b']') {
            self.take();
            return match self.skip_blank()? {
                None => Ok(None),
                Some(_) => Err(self.broken("must have nothing after the end of the array")),
            };
        } else if !self.is_first && next.is_some() {
            return Err(self.broken("must have a comma between restaurants, or end the array"));
        }
        self.is_first = false;
        let line = self.line;
        match next {
            Some(b'{') => {}
            Some(_) => return Err(self.broken("must have a restaurant here, in braces")),
            None => return Err(self.broken("ends within the array")),
        }
        element.clear();
        let (mut depth, mut in_text, mut is_escaped) = (0_u32, false, false);
        loop {
            let Some(byte) = self.peek()? else {
                return Err(Broken { line, message: "has no end: a brace is missing".into() });
            };
            if element.len() as u64 == RECORD_MAX {
                let message = "is longer than 64 MiB, which no restaurant is".into();
                return Err(Broken { line, message });
            }
            self.take();
            self.line += u64::from(byte == b'\n');
            element.push(byte);
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if in_text => is_escaped = true,
                b'"' => in_text = !in_text,
                b'{' | b'[' if !in_text => depth += 1,
                b'}' | b']' if !in_text => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(Some(line));
            }
        }
    }

    fn skip_blank(&mut self) -> Result<Option<u8>, Broken> {
        loop {
            match self.peek()? {
                Some(b'\n') => self.line += 1,
                Some(b' ' | b'\t' | b'\r') => {}
                other => return Ok(other),
            }
            self.take();
        }
    }

    fn peek(&mut self) -> Result<Option<u8>, Broken> {
        match self.input.fill_buf() {
            Ok(bytes) => Ok(bytes.first().copied()),
            Err(error) => {
                Err(Broken { line: self.line, message: format!("cannot be read: {error}") })
            }
        }
    }

    fn take(&mut self) {
        self.input.consume(1);
    }

    fn broken(&self, message: &str) -> Broken {
        Broken { line: self.line, message: message.into() }
    }
}

/// One restaurant, which begins on `line`.
fn record(line: u64, text: &[u8]) -> Result<Described, Failure> {
    let error = match serde_json::from_slice::<Record>(text) {
        Ok(record) => return Described::check(line, record, Format::Json),
        Err(error) => error,
    };
    let (field, message) = if error.is_data() {
        path(text).unwrap_or_else(|| (String::new(), without_place(&error)))
    } else {
        let line = line + error.line() as u64 - 1;
        let column = error.column();
        let what = without_place(&error);
        (String::new(), format!("is not JSON: {what} (line {line}, column {column})"))
    };
    Err(Failure { line, external_id: id(text), field, message })
}

/// Where in the restaurant something is wrong. Keeping track of it costs on every field, so all of
/// it is read again.
fn path(text: &[u8]) -> Option<(String, String)> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let error = serde_path_to_error::deserialize::<_, Record>(&mut reader).err()?;
    let path = error.path().to_string();
    let message = without_place(error.inner());
    Some((if path == "." { String::new() } else { path }, message))
}

/// Whose it is, when nothing else of it can be taken.
fn id(text: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Outside {
        restaurant: Inside,
    }
    #[derive(serde::Deserialize)]
    struct Inside {
        external_id: String,
    }
    serde_json::from_slice::<Outside>(text).ok().map(|outside| outside.restaurant.external_id)
}

/// The line and column that serde_json appends count from the beginning of the restaurant.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.split(" at line ").next().unwrap_or_default().to_owned()
}
