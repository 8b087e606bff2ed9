//! The frames of a one-off dyno's connection: a byte for the kind, a big-endian u32 length, the payload.

use oarlock_spec::api::RunFrame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest payload of a frame, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Why a frame could not be read or written. The connection is of no use after it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side announced more than [`MAX_PAYLOAD`], or the caller tried to send it.
    #[error("a frame of {0} bytes is over the limit of {MAX_PAYLOAD}")]
    TooLarge(usize),
    /// A kind that this version does not know.
    #[error("frame kind {0} is unknown; the command and the host may be of different versions")]
    UnknownKind(u8),
    /// An exit frame without a code, or with a message that is not UTF-8.
    #[error("the exit frame is malformed")]
    BadExit,
    /// The connection broke, perhaps within a frame.
    #[error("the connection of the one-off dyno broke: {0}")]
    Io(#[from] std::io::Error),
}

/// Reads one frame; `None` when the other side closed the connection between two frames. Not cancel
/// safe: a dropped call may have taken half a frame.
pub async fn read_frame<R: AsyncRead + Unpin>(
    from: &mut R,
) -> Result<Option<RunFrame>, FrameError> {
    let mut kind = [0u8; 1];
    if from.read(&mut kind).await? == 0 {
        return Ok(None);
    }
    let length = usize::try_from(from.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_PAYLOAD {
        return Err(FrameError::TooLarge(length));
    }
    let mut payload = vec![0u8; length];
    from.read_exact(&mut payload).await?;
    let [kind] = kind;
    match kind {
        0 => Ok(Some(RunFrame::Stdin(payload))),
        1 => Ok(Some(RunFrame::Stdout(payload))),
        2 => Ok(Some(RunFrame::Stderr(payload))),
        3 => match payload.split_first() {
            Some((code, message)) => {
                let message =
                    String::from_utf8(message.to_vec()).map_err(|_| FrameError::BadExit)?;
                Ok(Some(RunFrame::Exit(*code, message)))
            }
            None => Err(FrameError::BadExit),
        },
        4 => Ok(Some(RunFrame::Stop)),
        other => Err(FrameError::UnknownKind(other)),
    }
}

/// Writes one frame and flushes. An exit message that is too long is cut.
pub async fn write_frame<W: AsyncWrite + Unpin>(
    to: &mut W,
    frame: &RunFrame,
) -> Result<(), FrameError> {
    let exit_payload;
    let (kind, payload): (u8, &[u8]) = match frame {
        RunFrame::Stdin(bytes) => (0, bytes),
        RunFrame::Stdout(bytes) => (1, bytes),
        RunFrame::Stderr(bytes) => (2, bytes),
        RunFrame::Exit(code, message) => {
            let mut end = message.len().min(MAX_PAYLOAD - 1);
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            let mut bytes = vec![*code];
            bytes.extend_from_slice(message.get(..end).unwrap_or_default().as_bytes());
            exit_payload = bytes;
            (3, &exit_payload)
        }
        RunFrame::Stop => (4, &[]),
    };
    if payload.len() > MAX_PAYLOAD {
        return Err(FrameError::TooLarge(payload.len()));
    }
    let length = u32::try_from(payload.len()).map_err(|_| FrameError::TooLarge(payload.len()))?;
    // One write, so that a frame of a few bytes is one segment.
    let mut wire = Vec::with_capacity(5 + payload.len());
    wire.push(kind);
    wire.extend_from_slice(&length.to_be_bytes());
    wire.extend_from_slice(payload);
    to.write_all(&wire).await?;
    to.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn round_trip(frame: RunFrame) -> RunFrame {
        let mut wire = Vec::new();
        write_frame(&mut wire, &frame).await.unwrap();
        let mut reader = wire.as_slice();
        let read = read_frame(&mut reader).await.unwrap().unwrap();
        assert!(read_frame(&mut reader).await.unwrap().is_none());
        read
    }

    #[tokio::test]
    async fn every_kind_survives_the_wire() {
        for frame in [
            RunFrame::Stdin(vec![]),
            RunFrame::Stdin(b"in".to_vec()),
            RunFrame::Stdout(vec![7; MAX_PAYLOAD]),
            RunFrame::Stderr(b"err".to_vec()),
            RunFrame::Exit(134, "trapped".to_owned()),
            RunFrame::Exit(0, String::new()),
            RunFrame::Stop,
        ] {
            assert_eq!(round_trip(frame.clone()).await, frame);
        }
    }

    #[tokio::test]
    async fn the_payload_is_bounded_both_ways() {
        let mut wire = Vec::new();
        let error = write_frame(&mut wire, &RunFrame::Stdin(vec![0; MAX_PAYLOAD + 1]))
            .await
            .unwrap_err();
        assert!(matches!(error, FrameError::TooLarge(_)));
        assert!(wire.is_empty());
        let mut bytes: &[u8] = &[1, 0, 1, 0, 1];
        assert!(matches!(
            read_frame(&mut bytes).await.unwrap_err(),
            FrameError::TooLarge(65_537)
        ));
    }

    #[tokio::test]
    async fn a_long_exit_message_is_cut_at_a_character() {
        let read = round_trip(RunFrame::Exit(1, "ö".repeat(MAX_PAYLOAD))).await;
        let RunFrame::Exit(1, message) = read else {
            panic!("{read:?}")
        };
        assert_eq!(message.len(), MAX_PAYLOAD - 2);
    }

    #[tokio::test]
    async fn half_a_frame_and_an_unknown_kind_are_errors() {
        let mut half: &[u8] = &[0, 0, 0, 0, 9, 1];
        assert!(matches!(
            read_frame(&mut half).await.unwrap_err(),
            FrameError::Io(_)
        ));
        let mut unknown: &[u8] = &[9, 0, 0, 0, 0];
        assert!(matches!(
            read_frame(&mut unknown).await.unwrap_err(),
            FrameError::UnknownKind(9)
        ));
        let mut no_code: &[u8] = &[3, 0, 0, 0, 0];
        assert!(matches!(
            read_frame(&mut no_code).await.unwrap_err(),
            FrameError::BadExit
        ));
    }
}
