// OAuth 2.0 Form Post Response Mode: the form sends itself; without scripts there is its button.
document.forms[0].submit();
