//! Checkpoints as one file that is replaced as a whole.
//!
//! A magic, the length of a JSON header, the header, the vectors it counts as
//! little-endian f32, and the SHA-256 of all before it. The file is written
//! beside the old one, synced and renamed over it, so a run that is killed at
//! any moment leaves the one or the other. Numbers that must come back to the
//! bit are in the header as their bits.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ids::Sha256Digest;
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::train::{BestEpoch, Checkpoint, Checkpoints, Curve, LossBits, Moments, Position};

/// The file's name in the run's folder.
pub(crate) const FILE_NAME: &str = "checkpoint.bin";
/// Its first bytes.
const MAGIC: &[u8; 16] = b"flywheel-ckpt-1\n";
/// The longest header: a curve of a million steps.
const HEADER_BYTES_MAX: u64 = 1 << 30;
/// The digest at the end.
const DIGEST_BYTES: u64 = 32;

/// A run's checkpoint in its folder.
pub struct CheckpointFile {
    folder: PathBuf,
    every_steps: usize,
}

#[derive(Serialize, Deserialize)]
struct Header {
    identity: Sha256Digest,
    epochs: usize,
    steps_in_epoch: usize,
    steps: usize,
    tokens: u64,
    seconds_bits: u64,
    optimizer_steps: i32,
    /// Lengths of the parameter vectors.
    lengths: Vec<usize>,
    best: Option<BestHeader>,
    references: Vec<(Sha256Digest, u64)>,
    curve_steps: String,
    curve_epochs: String,
    losses_bits: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct BestHeader {
    epoch: usize,
    rank_bits: (u64, u64),
}

impl CheckpointFile {
    /// Checkpoints in `folder` every `every_steps` steps, besides those after
    /// every epoch; 0 keeps only these.
    #[must_use]
    pub fn new(folder: &Path, every_steps: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            every_steps,
        }
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(FILE_NAME)
    }

    /// Removes the file of a run that has ended, and one that was not written
    /// to its end; whether there was any.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub fn forget(&self) -> Result<bool, TrainerError> {
        let mut was_there = false;
        for path in [self.path(), self.path().with_extension("next")] {
            match std::fs::remove_file(&path) {
                Ok(()) => was_there = true,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(TrainerError::file(&path)(error)),
            }
        }
        Ok(was_there)
    }

    fn wrong(&self, problem: &str) -> TrainerError {
        TrainerError::Content {
            path: self.path(),
            line: 1,
            problem: problem.to_owned(),
        }
    }

    fn read(&self, mut file: File) -> Result<Checkpoint, TrainerError> {
        let path = self.path();
        let failed = |e| TrainerError::file(&path)(e);
        let size = file.metadata().map_err(failed)?.len();
        let fixed = MAGIC.len() as u64 + 8;
        let Some(body) = size.checked_sub(fixed + DIGEST_BYTES) else {
            return Err(self.wrong("is too short for a checkpoint"));
        };
        let digest = Sha256Digest::of_reader((&mut file).take(size - DIGEST_BYTES));
        let mut stored = [0; DIGEST_BYTES as usize];
        file.read_exact(&mut stored).map_err(failed)?;
        if digest.map_err(failed)?.as_bytes() != &stored {
            return Err(self.wrong("is damaged: its digest is another"));
        }
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut file = std::io::BufReader::with_capacity(1 << 20, file);
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic).map_err(failed)?;
        if &magic != MAGIC {
            return Err(self.wrong("is no checkpoint of this version"));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(failed)?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX.min(body) {
            return Err(self.wrong("has a header that does not fit"));
        }
        let mut header = Vec::new();
        (&mut file)
            .take(length)
            .read_to_end(&mut header)
            .map_err(failed)?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|e| self.wrong(&e.to_string()))?;
        let copies = if header.best.is_some() { 4 } else { 3 };
        let numbers = header
            .lengths
            .iter()
            .try_fold(0u64, |sum, &n| sum.checked_add(n as u64));
        if numbers.and_then(|n| n.checked_mul(4 * copies)) != Some(body - length) {
            return Err(self.wrong("has vectors of other lengths than its header says"));
        }
        decode(header, &mut file).map_err(failed)
    }

    fn write(&self, checkpoint: &Checkpoint) -> std::io::Result<()> {
        let next = self.path().with_extension("next");
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&next)?;
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        encode(checkpoint, &mut writer)?;
        let mut file = writer.into_inner().map_err(|e| e.into_error())?;
        file.seek(SeekFrom::Start(0))?;
        let digest = Sha256Digest::of_reader(&mut file)?;
        file.write_all(digest.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&next, self.path())?;
        // the rename is durable with the folder
        File::open(&self.folder)?.sync_all()
    }
}

impl Checkpoints for CheckpointFile {
    fn last(&mut self) -> Result<Option<Checkpoint>, TrainerError> {
        match File::open(self.path()) {
            Ok(file) => self.read(file).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TrainerError::file(&self.path())(error)),
        }
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainerError> {
        self.write(checkpoint)
            .map_err(TrainerError::file(&self.path()))
    }

    fn wanted(&self, step: usize) -> bool {
        self.every_steps > 0 && step.is_multiple_of(self.every_steps)
    }
}

fn encode(checkpoint: &Checkpoint, into: &mut impl Write) -> std::io::Result<()> {
    let Position {
        epochs,
        steps_in_epoch,
        steps,
        tokens,
        seconds,
    } = checkpoint.position;
    let header = Header {
        identity: checkpoint.identity,
        epochs,
        steps_in_epoch,
        steps,
        tokens,
        seconds_bits: seconds.to_bits(),
        optimizer_steps: checkpoint.optimizer_steps,
        lengths: checkpoint.parameters.iter().map(Vec::len).collect(),
        best: checkpoint.best.as_ref().map(|best| BestHeader {
            epoch: best.epoch,
            rank_bits: (best.rank.0.to_bits(), best.rank.1.to_bits()),
        }),
        references: checkpoint
            .references
            .iter()
            .map(|(key, sum)| (*key, sum.to_bits()))
            .collect(),
        curve_steps: checkpoint.curve.steps.clone(),
        curve_epochs: checkpoint.curve.epochs.clone(),
        losses_bits: checkpoint.curve.losses.iter().map(|loss| loss.0).collect(),
    };
    let header = serde_json::to_vec(&header)?;
    into.write_all(MAGIC)?;
    into.write_all(&(header.len() as u64).to_le_bytes())?;
    into.write_all(&header)?;
    let first = checkpoint.moments.iter().map(|m| &m.first);
    let second = checkpoint.moments.iter().map(|m| &m.second);
    let best = checkpoint.best.iter().flat_map(|best| &best.parameters);
    for vector in checkpoint
        .parameters
        .iter()
        .chain(first)
        .chain(second)
        .chain(best)
    {
        for value in vector {
            into.write_all(&value.to_le_bytes())?;
        }
    }
    Ok(())
}

/// The rest of the file, whose size was checked against the header's lengths.
fn decode(header: Header, from: &mut impl Read) -> std::io::Result<Checkpoint> {
    let mut vectors = || -> std::io::Result<Vec<Vec<f32>>> {
        let mut read = |&length: &usize| {
            let mut bytes = vec![0; length * 4];
            from.read_exact(&mut bytes)?;
            let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            Ok(bytes.chunks_exact(4).map(value).collect())
        };
        header.lengths.iter().map(&mut read).collect()
    };
    let parameters = vectors()?;
    let (first, second) = (vectors()?, vectors()?);
    let moments = first.into_iter().zip(second);
    let moments = moments.map(|(first, second)| Moments { first, second });
    let best = match &header.best {
        Some(best) => Some(BestEpoch {
            epoch: best.epoch,
            rank: (
                f64::from_bits(best.rank_bits.0),
                f64::from_bits(best.rank_bits.1),
            ),
            parameters: vectors()?,
        }),
        None => None,
    };
    Ok(Checkpoint {
        identity: header.identity,
        position: Position {
            epochs: header.epochs,
            steps_in_epoch: header.steps_in_epoch,
            steps: header.steps,
            tokens: header.tokens,
            seconds: f64::from_bits(header.seconds_bits),
        },
        parameters,
        optimizer_steps: header.optimizer_steps,
        moments: moments.collect(),
        best,
        references: header
            .references
            .into_iter()
            .map(|(key, bits)| (key, f64::from_bits(bits)))
            .collect(),
        curve: Curve {
            steps: header.curve_steps,
            epochs: header.curve_epochs,
            losses: header.losses_bits.into_iter().map(LossBits).collect(),
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let vectors = vec![vec![0.1, f32::MIN_POSITIVE, -3.5], vec![7.0]];
        Checkpoint {
            identity: Sha256Digest::of(b"run"),
            position: Position {
                epochs: 2,
                steps_in_epoch: 1,
                steps: 9,
                tokens: 1234,
                seconds: 0.1 + 0.2,
            },
            parameters: vectors.clone(),
            optimizer_steps: 9,
            moments: vectors
                .iter()
                .map(|v| Moments {
                    first: v.clone(),
                    second: v.iter().map(|x| x * x).collect(),
                })
                .collect(),
            best: Some(BestEpoch {
                epoch: 1,
                rank: (1.0 / 3.0, f64::NEG_INFINITY),
                parameters: vectors,
            }),
            references: vec![(Sha256Digest::of(b"a"), -0.1 / 3.0)],
            curve: Curve {
                steps: "{\"step\":1}\n".to_owned(),
                epochs: String::new(),
                losses: vec![LossBits((0.1f64 / 3.0).to_bits())],
            },
        }
    }

    #[test]
    fn it_comes_back_to_the_bit_and_replaces_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = CheckpointFile::new(folder.path(), 4);
        assert_eq!(file.last().unwrap(), None);
        let mut kept = checkpoint();
        file.save(&kept).unwrap();
        assert_eq!(file.last().unwrap(), Some(kept.clone()));
        kept.best = None;
        kept.position.steps = 10;
        file.save(&kept).unwrap();
        let back = file.last().unwrap().unwrap();
        assert_eq!((back.digest(), &back), (kept.digest(), &kept));
        let waits: Vec<usize> = (1..=8).filter(|&s| file.wanted(s)).collect();
        assert_eq!(waits, [4, 8]);
        assert!(!CheckpointFile::new(folder.path(), 0).wanted(4));
    }

    #[test]
    fn the_digest_leaves_out_the_clock_alone() {
        let one = checkpoint();
        let mut other = checkpoint();
        other.position.seconds = 99.0;
        assert_eq!(one.digest(), other.digest());
        other.moments[1].second[0] += 1e-6 * other.moments[1].second[0];
        assert_ne!(one.digest(), other.digest());
        let mut other = checkpoint();
        other.references[0].1 = 0.0;
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn what_is_damaged_or_half_written_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = CheckpointFile::new(folder.path(), 0);
        file.save(&checkpoint()).unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        // a torn write beside it changes nothing
        std::fs::write(file.path().with_extension("next"), &whole[..50]).unwrap();
        assert_eq!(file.last().unwrap(), Some(checkpoint()));
        for cut in [0, 10, 40, whole.len() - 1] {
            std::fs::write(file.path(), &whole[..cut]).unwrap();
            assert!(file.last().is_err(), "{cut} bytes were taken");
        }
        let mut flipped = whole.clone();
        flipped[60] ^= 1;
        std::fs::write(file.path(), &flipped).unwrap();
        assert!(file.last().is_err());
        // a header that promises more than there is, with a digest that fits
        let mut lying = whole[..whole.len() - 32].to_vec();
        lying[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        let digest = Sha256Digest::of(&lying);
        lying.extend_from_slice(digest.as_bytes());
        std::fs::write(file.path(), &lying).unwrap();
        assert!(file.last().is_err());
    }
}
