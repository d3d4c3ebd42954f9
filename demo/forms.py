"""The one form of the demo, and the sentence that each mistake in it gets."""

from email_validator import EmailNotValidError, validate_email
from flask_wtf import FlaskForm
from wtforms import EmailField, StringField, TextAreaField
from wtforms.validators import DataRequired, Length, Regexp, ValidationError

MAX_SUBJECT = 255  # characters, as Mailjet has it
MAX_BODY = 10_000


def _strip(text: str | None) -> str:
    return (text or "").strip()


def _newlines(text: str | None) -> str:
    # Browsers send \r\n for each line break: counted as one character, as whoever typed it would.
    return (text or "").replace("\r\n", "\n")


class MailForm(FlaskForm):  # type: ignore[misc]  # flask_wtf has no types
    """Recipient, subject and text. `address` is the recipient as it goes over the wire, once the form is valid."""

    to = EmailField("To", filters=[_strip], validators=[DataRequired("Enter the address the mail goes to.")])
    subject = StringField(
        "Subject",
        filters=[_strip],
        validators=[
            DataRequired("Enter a subject."),
            Length(max=MAX_SUBJECT, message=f"Shorten the subject to {MAX_SUBJECT} characters."),
            # A line break would end the header and start another one, of the writer's choice.
            Regexp(r"^[^\x00-\x1f\x7f]*\Z", message="The subject must be a single line."),
        ],
    )
    body = TextAreaField(
        "Message",
        filters=[_newlines],
        validators=[
            DataRequired("Write a message."),
            Length(max=MAX_BODY, message=f"Shorten the message to {MAX_BODY:,} characters."),
        ],
    )

    def validate_to(self, field: EmailField) -> None:
        """Called by WTForms: the address must be one that Mailjet can be given."""
        try:
            valid = validate_email(field.data, check_deliverability=False, allow_smtputf8=False)
        except EmailNotValidError as exc:
            raise ValidationError("Enter an address like name@example.com.") from exc
        # An international domain travels in its ASCII form.
        self.address = valid.ascii_email or valid.normalized
