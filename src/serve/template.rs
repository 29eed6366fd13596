//! Conversations to prompts, by the model's own template.
//!
//! The template is Jinja as the Hugging Face libraries render it: blocks trimmed, Python's
//! methods of strings and dictionaries, `raise_exception`. It comes with the model and is as
//! trusted as its weights; still, fuel and depth are bounded, and it can read nothing but what
//! it is given.

use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::Value;

/// A template may execute so many instructions.
const FUEL: u64 = 5_000_000;

const NAME: &str = "chat";

/// How a conversation becomes a prompt.
#[derive(Debug)]
pub(super) struct Template {
    /// Without one, lines of `role: content`.
    environment: Option<Environment<'static>>,
    begin: String,
    end: String,
}

impl Template {
    /// The template of this source; `begin` and `end` are the texts of the tokens around one.
    ///
    /// # Errors
    /// Where it does not parse.
    pub(super) fn new(source: Option<&str>, begin: String, end: String) -> Result<Self, String> {
        let environment = source.map(|source| parse(source.to_owned())).transpose()?;
        Ok(Self { environment, begin, end })
    }

    /// Whether there is no template of the model's own.
    pub(super) const fn is_plain(&self) -> bool {
        self.environment.is_none()
    }

    /// The prompt of a conversation that the assistant goes on with.
    ///
    /// # Errors
    /// Why the template refuses it.
    pub(super) fn render(&self, messages: &[Value]) -> Result<String, String> {
        let Some(environment) = &self.environment else { return Ok(plain(messages)) };
        let template = environment.get_template(NAME).map_err(|error| said(&error))?;
        let rendered = template.render(context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.begin,
            eos_token => self.end,
        });
        rendered.map_err(|error| said(&error))
    }
}

fn parse(source: String) -> Result<Environment<'static>, String> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |what: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, what))
    });
    environment
        .add_template_owned(NAME, source)
        .map_err(|error| format!("chat template: {}", said(&error)))?;
    Ok(environment)
}

fn said(error: &Error) -> String {
    error.detail().map_or_else(|| error.to_string(), str::to_owned)
}

fn plain(messages: &[Value]) -> String {
    let mut text = String::new();
    for message in messages {
        let field = |name: &str| message[name].as_str().unwrap_or_default();
        text += &format!("{}: {}\n", field("role"), field("content"));
    }
    text + "assistant:"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CHATML: &str = "{% for m in messages %}
    {{- '<|im_start|>' + m['role'] + '\\n' + m.content.strip() + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}";

    fn render(source: Option<&str>, messages: &Value) -> Result<String, String> {
        let template = Template::new(source, "<s>".to_owned(), "</s>".to_owned())?;
        template.render(messages.as_array().unwrap())
    }

    #[test]
    fn the_model_s_template_is_rendered_as_its_makers_do() {
        let messages = json!([
            {"role": "system", "content": " be brief "},
            {"role": "user", "content": "hi"},
        ]);
        assert_eq!(
            render(Some(CHATML), &messages).unwrap(),
            "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n\
             <|im_start|>assistant\n"
        );
        assert_eq!(render(Some("{{ bos_token }}{{ eos_token }}"), &messages).unwrap(), "<s></s>");
        assert_eq!(render(None, &messages).unwrap(), "system:  be brief \nuser: hi\nassistant:");
    }

    #[test]
    fn a_template_says_why_it_refuses() {
        let messages = json!([{"role": "user", "content": "hi"}]);
        let refusing = "{{ raise_exception('roles must alternate') }}";
        assert_eq!(render(Some(refusing), &messages).unwrap_err(), "roles must alternate");
        let broken = render(Some("{% if %}"), &messages).unwrap_err();
        assert!(broken.starts_with("chat template: "), "{broken}");
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        let stopped = render(Some(endless), &messages).unwrap_err();
        assert!(stopped.contains("fuel"), "{stopped}");
    }
}
