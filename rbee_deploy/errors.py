"""Errors of the deployer.

DeployError
├── SecretError      a secret's source gives nothing, or its file is open to others
├── AuthorityError   the fleet's certificate authority cannot be used as it lies on disk
├── RenderError      a template or its data is wrong
├── ArtefactError    a release, engine or model file cannot be built, read or trusted
│   └── ProcessorError   what there is, is for other processors than a host's
├── BundleError      a bundle cannot be made, is damaged, or lacks what is asked of it
└── ExportError      an inventory cannot go to another substrate as it is, or its folder is somebody else's

InventoryError       (a SystemExit) the inventory file is wrong
UnfitRunError        (a SystemExit) a run ends before it began
"""


class DeployError(Exception):
    """Root of every error that the deployer raises on purpose; its text is one sentence for a person."""


class SecretError(DeployError):
    """A secret cannot be read from its source."""


class AuthorityError(DeployError):
    """The certificate authority on the operator's disk cannot be used."""


class RenderError(DeployError):
    """A template cannot be rendered."""


class ArtefactError(DeployError):
    """A release, engine or model file cannot be built, read or trusted."""


class ProcessorError(ArtefactError):
    """An image is there, for other processors than a host's: nothing that has to be put right on this machine."""


class BundleError(DeployError):
    """A bundle cannot be made, is damaged, or lacks what is asked of it."""


class ExportError(DeployError):
    """An inventory cannot be exported as it is, or to where it should go."""


class InventoryError(SystemExit):
    """The inventory file is wrong: one sentence that names host or model and field.

    Not a DeployError on purpose. pyinfra executes the inventory file and prints a traceback for any Exception;
    it leaves SystemExit alone, and Python then prints the sentence and exits with status 1.
    """


class UnfitRunError(SystemExit):
    """Nothing can be deployed before the operator puts something right: one sentence, exit status 1.

    Not a DeployError for the reason above: pyinfra prefixes any Exception with itself and a line of our code.
    """
