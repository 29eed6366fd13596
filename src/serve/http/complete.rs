//! A request for answers: read, checked, handed to the engine, answered.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use tokio::sync::mpsc::{Receiver, channel};

use super::body;
use super::stream::{Events, failure};
use crate::backend::Sampling;
use crate::event::Clock;
use crate::serve::api::{
    Answerer, ApiError, Ask, Choice, Form, Format, Input, Prompt, Settings, Usage,
};
use crate::serve::door::{Door, Job, Seat, Ticket};
use crate::serve::speaker::{Progress, Reason, Rules, Said, Speaker};
use crate::serve::text::Text;
use crate::serve::words::ConverseError;
use crate::unit::Nanos;

/// A request that the engine has, and how its answers come back.
pub(super) struct Running {
    pub(super) answerer: Answerer,
    pub(super) said: Receiver<Said>,
    /// The text before each answer, where the prompt is echoed.
    pub(super) echoes: Vec<String>,
    pub(super) prompt_tokens: u64,
    /// Answers to each prompt.
    pub(super) n: u32,
    /// Seconds that it may take.
    pub(super) limit: u64,
    /// Nobody waits any more once this is dropped.
    pub(super) ticket: Ticket,
}

/// Answers a request.
pub(super) async fn complete(
    door: Arc<Door>,
    form: Form,
    request: Request,
) -> Result<Response, ApiError> {
    door.check_open()?;
    let arrived = door.clock.now();
    let bytes = body::read(request, door.limits).await?;
    let ask = Ask::read(form, &bytes)?;
    drop(bytes);
    if ask.model != door.served.model {
        return Err(ApiError::no_model(&ask.model));
    }
    let prompts = match &ask.input {
        Input::Messages(_) => 1,
        Input::Prompts(prompts) => prompts.len() as u32,
    };
    let seats = door.sit(ask.settings.n * prompts).inspect_err(|error| {
        if error.status == 429 {
            door.turn_away(arrived, form.class(), ask.settings.max_tokens.unwrap_or(0));
        }
    })?;
    let stream = ask.delivery.stream;
    let reader = Arc::clone(&door);
    // Texts may be long and grammars large: not on a thread that others wait for.
    let running = tokio::task::spawn_blocking(move || begin(&reader, form, ask, arrived, seats));
    let running = running.await.map_err(|_| ApiError::failed("it could not be read"))??;
    match stream {
        true => Ok(body::stream("text/event-stream", Body::new(Events::new(running)))),
        false => collect(running).await,
    }
}

/// Reads texts, and hands all answers to the engine.
fn begin(
    door: &Arc<Door>,
    form: Form,
    ask: Ask,
    arrived: Nanos,
    seats: Vec<Seat>,
) -> Result<Running, ApiError> {
    let Ask { model, input, settings, delivery } = ask;
    let prompts = prompts(door, &input)?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let max_tokens = room(door, &settings, longest, input.param())?;
    let guide = match &settings.format {
        Format::Text => None,
        Format::Json(schema) => {
            Some(door.words.guide(schema).map_err(|what| ApiError::schema(&what))?)
        }
    };
    let echoes = match delivery.echo {
        true => prompts.iter().map(|prompt| door.words.decode(prompt)).collect(),
        false => vec![String::new(); prompts.len()],
    };
    let answers = seats.len();
    // Room for every token and the end of each answer: whoever speaks never waits.
    let (sender, said) = channel(answers.saturating_mul(max_tokens as usize + 2));
    let number = door.number();
    let prompt_tokens = prompts.iter().map(|prompt| prompt.len() as u64).sum();
    let base = settings.seed.unwrap_or_else(random);
    let n = settings.n;
    let each = prompts.iter().flat_map(|prompt| (0..n).map(move |_| prompt));
    let speak = |(at, (prompt, seat)): (usize, (&Vec<u32>, Seat))| {
        let speaker = Speaker {
            choice: at as u32,
            sender: sender.clone(),
            text: Text::new(Arc::clone(&door.words), settings.ending.stop.clone()),
            guide: guide.clone(),
            rules: rules(door, &settings, delivery.logprobs),
            metrics: Arc::clone(&door.metrics),
            arrived,
            prompt_tokens: prompt.len() as u32,
            progress: Progress::default(),
            seat: Some(seat),
        };
        // Answers to the same prompt differ, and each comes again with the same seed.
        let seed = base ^ (at as u64).wrapping_mul(0xd134_2543_de82_ef95);
        (prompt.clone(), sampling(&settings, seed), speaker)
    };
    let answers = each.zip(seats).enumerate().map(speak).collect();
    door.metrics.accepted(n, max_tokens);
    let deadline = Nanos(arrived.0.saturating_add(door.limits.request.0));
    let class = form.class();
    let job = Job { ticket: number, arrived, deadline, class, max_tokens, answers };
    let answerer = Answerer {
        form,
        delivery,
        id: id(form),
        created: seconds_since_1970(),
        model,
        pieces: Arc::clone(door.words.pieces()),
    };
    let echoes = echoes.iter().flat_map(|echo| (0..n).map(move |_| echo.clone())).collect();
    let limit = door.limits.request.0 / 1_000_000_000;
    let ticket = door.submit(job)?;
    Ok(Running { answerer, said, echoes, prompt_tokens, n, limit, ticket })
}

/// The prompts as ids.
fn prompts(door: &Door, input: &Input) -> Result<Vec<Vec<u32>>, ApiError> {
    let words = &door.words;
    let refused = |error: String| {
        ApiError::invalid(
            input.param(),
            "invalid_value",
            format!("Invalid '{}': {error}.", input.param()),
        )
    };
    match input {
        Input::Messages(messages) => {
            let ids = words.converse(messages).map_err(|error| match error {
                ConverseError::Template(what) => refused(what),
                ConverseError::Model(error) => refused(error.to_string()),
            })?;
            Ok(vec![ids])
        }
        Input::Prompts(prompts) => {
            let vocab = words.pieces().len() as u32;
            let ids = prompts.iter().map(|prompt| match prompt {
                Prompt::Text(text) => {
                    words.encode(text).map_err(|error| refused(error.to_string()))
                }
                Prompt::Tokens(ids) => match ids.iter().find(|id| **id >= vocab) {
                    None => Ok(ids.clone()),
                    Some(id) => Err(refused(format!(
                        "expected token ids below {vocab}, the size of the vocabulary, but got {id}"
                    ))),
                },
            });
            let ids: Vec<Vec<u32>> = ids.collect::<Result<_, _>>()?;
            match ids.iter().any(Vec::is_empty) {
                true => {
                    Err(refused("expected at least one token, but got an empty prompt".to_owned()))
                }
                false => Ok(ids),
            }
        }
    }
}

/// How many tokens each answer may have.
fn room(door: &Door, settings: &Settings, prompt: usize, param: &str) -> Result<u32, ApiError> {
    let memory = &door.memory;
    let blocks = u64::from(memory.kv_blocks) * u64::from(memory.block_tokens);
    let context = blocks.min(memory.max_sequence_tokens.into()) as u32;
    let left = (context as usize).saturating_sub(prompt) as u32;
    let wanted = settings.max_tokens.unwrap_or(left.max(1));
    if wanted > left {
        return Err(ApiError::too_long(context, prompt, wanted, param));
    }
    let least = settings.ending.min_tokens;
    if least > wanted {
        let message = format!(
            "Invalid 'min_tokens': integer above maximum value. Expected a value <= {wanted}, the \
             most tokens of the answer, but got {least} instead."
        );
        return Err(ApiError::invalid("min_tokens", "integer_above_max_value", message));
    }
    Ok(wanted)
}

fn rules(door: &Door, settings: &Settings, logprobs: Option<u32>) -> Rules {
    Rules {
        end: Arc::clone(door.words.end()),
        stops: !settings.ending.stop.is_empty(),
        ignore_eos: settings.ending.ignore_eos,
        min_tokens: settings.ending.min_tokens,
        logprobs,
    }
}

fn sampling(settings: &Settings, seed: u64) -> Sampling {
    let Settings { temperature, top_p, top_k, .. } = *settings;
    Sampling { temperature, top_k, top_p, seed }
}

/// Waits for all answers, and gives them whole.
async fn collect(running: Running) -> Result<Response, ApiError> {
    let Running { answerer, mut said, echoes, prompt_tokens, n, limit, ticket } = running;
    let choice =
        |(at, text): (usize, String)| Choice { index: at as u32, text, ..Choice::default() };
    let mut choices: Vec<Choice> = echoes.into_iter().enumerate().map(choice).collect();
    let mut usage = Usage { prompt: prompt_tokens, ..Usage::default() };
    let mut open = choices.len();
    while open > 0 {
        match said.recv().await {
            Some(Said::Token { choice, text, spoken, .. }) => {
                let choice = &mut choices[choice as usize];
                choice.text += &text;
                choice.tokens.extend(spoken);
            }
            Some(Said::End { choice, text, reason, tokens, cached }) => {
                open -= 1;
                usage.completion += u64::from(tokens);
                usage.cached += cached_of(choice, n, cached);
                let choice = &mut choices[choice as usize];
                choice.text += &text;
                choice.finish =
                    Some(finish_reason(&reason).ok_or_else(|| failure(&reason, limit))?);
            }
            None => return Err(ApiError::unavailable("the engine has ended")),
        }
    }
    drop(ticket);
    Ok(body::json(&answerer.whole(&choices, usage)))
}

/// Cached tokens of a prompt are told once, however many answers it has.
pub(super) fn cached_of(choice: u32, n: u32, cached: u32) -> u64 {
    if choice.is_multiple_of(n) { cached.into() } else { 0 }
}

/// The interface's word for an end that is none of a failure.
pub(super) fn finish_reason(reason: &Reason) -> Option<&'static str> {
    match reason {
        Reason::Stop => Some("stop"),
        Reason::Length => Some("length"),
        Reason::TimedOut | Reason::Dropped | Reason::Unkept(_) | Reason::Failed(_) => None,
    }
}

/// Bits that nobody can foresee: the standard library seeds its hashers from the system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn id(form: Form) -> String {
    let start = match form {
        Form::Chat => "chatcmpl",
        Form::Text => "cmpl",
    };
    format!("{start}-{:016x}{:08x}", random(), random() as u32)
}

pub(in crate::serve) fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
