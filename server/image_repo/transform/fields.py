"""What is told of an original's metadata: the one table of it.

A field is told under one name for ever, whichever of EXIF, IPTC and XMP it comes from.
What has a group is told only where the configuration says so. Embedded previews and
the notes of makers are in no field, and so never told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from image_repo.options import option
from image_repo.transform.values import (
    Convert,
    altitude,
    degrees,
    moment,
    number,
    people,
    per_inch,
    positive,
    rating,
    text,
    words,
)

GROUPS = ("location", "serial", "owner")
"""What may say where somebody lives, and who took which picture."""

_SEPARATOR = "[ ,]+"


@dataclass(frozen=True, slots=True)
class MetadataOptions:
    """What is told of originals by `meta=True`."""

    reveal: str = option(
        "",
        "What is told of metadata besides the harmless: words of location, serial and"
        " owner, separated by spaces.",
        pattern=rf"(({'|'.join(GROUPS)})({_SEPARATOR}|$))*",
    )

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that are revealed, each once, in the order of `GROUPS`."""
        said = re.split(_SEPARATOR, self.reveal)
        return tuple(group for group in GROUPS if group in said)


@dataclass(frozen=True, slots=True)
class Field:
    """A field, and where it is looked for.

    Attributes:
        name: Its name in the answer.
        help: What it is, for the documentation.
        convert: Makes the value.
        exif: Tag, and further ones that are parts of the same value.
        iptc: Data set of record 2, and further ones likewise.
        xmp: Properties in the order of trying; parts are separated by a space. `png:`
            is the texts of a PNG.
        group: Of `GROUPS`; empty: it is told always.
    """

    name: str
    help: str
    convert: Convert
    exif: tuple[int, ...] = ()
    iptc: tuple[int, ...] = ()
    xmp: tuple[str, ...] = ()
    group: str = ""


FACTS: tuple[tuple[str, str], ...] = (
    ("format", "kind of the original, by its bytes"),
    ("media_type", "as in Content-Type"),
    ("bytes", "of the original"),
    ("width", "pixels, upright"),
    ("height", "pixels, upright"),
    ("frames", "of an animation, or pages"),
    ("orientation", "how it is stored, 1 to 8 as in EXIF"),
    ("colour", "grey, rgb, cmyk or lab"),
    ("bits", "of one channel"),
    ("colour_profile", "name of the ICC profile"),
)
"""Fields that come from the image itself, and what they are."""

FIELDS: tuple[Field, ...] = (
    Field("resolution_x", "pixels per inch", per_inch, (282, 296)),
    Field("resolution_y", "pixels per inch", per_inch, (283, 296)),
    Field("camera_make", "text", text, (271,), (), ("tiff:Make",)),
    Field("camera_model", "text", text, (272,), (), ("tiff:Model",)),
    Field("lens", "text", text, (0xA434,), (), ("exifEX:LensModel", "aux:Lens")),
    Field("software", "text", text, (305,), (65,), ("xmp:CreatorTool", "png:Software")),
    Field(
        "taken",
        "ISO 8601, with the offset if it is known",
        moment,
        (0x9003, 0x9291, 0x9011),
        (55, 60),
        ("exif:DateTimeOriginal", "photoshop:DateCreated"),
    ),
    Field(
        "digitised",
        "ISO 8601",
        moment,
        (0x9004, 0x9292, 0x9012),
        (62, 63),
        ("xmp:CreateDate", "exif:DateTimeDigitized"),
    ),
    Field(
        "modified", "ISO 8601", moment, (306, 0x9290, 0x9010), (), ("xmp:ModifyDate",)
    ),
    Field(
        "exposure_seconds", "number", positive, (0x829A,), (), ("exif:ExposureTime",)
    ),
    Field(
        "exposure_bias",
        "number, in steps",
        number,
        (0x9204,),
        (),
        ("exif:ExposureBiasValue",),
    ),
    Field("f_number", "number", positive, (0x829D,), (), ("exif:FNumber",)),
    Field(
        "iso",
        "number",
        positive,
        (0x8827,),
        (),
        ("exifEX:PhotographicSensitivity", "exif:ISOSpeedRatings"),
    ),
    Field("focal_length_mm", "number", positive, (0x920A,), (), ("exif:FocalLength",)),
    Field(
        "focal_length_35mm",
        "number: the same view on 35 mm film",
        positive,
        (0xA405,),
        (),
        ("exif:FocalLengthIn35mmFilm",),
    ),
    Field("title", "text", text, (), (5,), ("dc:title", "png:Title")),
    Field("headline", "text", text, (), (105,), ("photoshop:Headline",)),
    Field(
        "description",
        "text",
        text,
        (270,),
        (120,),
        ("dc:description", "png:Description"),
    ),
    Field("keywords", "list of texts", words, (), (25,), ("dc:subject",)),
    Field("rating", "-1 to 5", rating, (0x4746,), (), ("xmp:Rating",)),
    Field("artist", "text", people, (315,), (80,), ("dc:creator", "png:Author")),
    Field("copyright", "text", text, (33432,), (116,), ("dc:rights", "png:Copyright")),
    Field("credit", "text", text, (), (110,), ("photoshop:Credit",)),
    Field("source", "text", text, (), (115,), ("photoshop:Source",)),
    Field(
        "licence",
        "URL, or text",
        text,
        (),
        (),
        ("cc:license", "xmpRights:WebStatement", "xmpRights:UsageTerms"),
    ),
    Field(
        "digital_source",
        "URL of IPTC's word for it, as for what a program has made up",
        text,
        (),
        (),
        ("Iptc4xmpExt:DigitalSourceType",),
    ),
    Field(
        "latitude", "degrees", degrees, (2, 1), (), ("exif:GPSLatitude",), "location"
    ),
    Field(
        "longitude", "degrees", degrees, (4, 3), (), ("exif:GPSLongitude",), "location"
    ),
    Field(
        "altitude",
        "metres above the sea",
        altitude,
        (6, 5),
        (),
        ("exif:GPSAltitude exif:GPSAltitudeRef",),
        "location",
    ),
    Field(
        "sublocation", "text", text, (), (92,), ("Iptc4xmpCore:Location",), "location"
    ),
    Field("city", "text", text, (), (90,), ("photoshop:City",), "location"),
    Field("state", "text", text, (), (95,), ("photoshop:State",), "location"),
    Field("country", "text", text, (), (101,), ("photoshop:Country",), "location"),
    Field(
        "country_code",
        "text",
        text,
        (),
        (100,),
        ("Iptc4xmpCore:CountryCode",),
        "location",
    ),
    Field(
        "camera_serial",
        "text",
        text,
        (0xA431,),
        (),
        ("exifEX:BodySerialNumber", "aux:SerialNumber"),
        "serial",
    ),
    Field(
        "lens_serial",
        "text",
        text,
        (0xA435,),
        (),
        ("exifEX:LensSerialNumber", "aux:LensSerialNumber"),
        "serial",
    ),
    Field("image_id", "text", text, (0xA420,), (), ("exif:ImageUniqueID",), "serial"),
    Field(
        "owner",
        "text",
        text,
        (0xA430,),
        (),
        ("exifEX:CameraOwnerName", "aux:OwnerName", "xmpRights:Owner"),
        "owner",
    ),
    Field("contact", "text", text, (), (118,), (), "owner"),
)

EXIF_TAGS = frozenset(tag for field in FIELDS for tag in field.exif)
IPTC_SETS = frozenset(number for field in FIELDS for number in field.iptc)
XMP_NAMES = frozenset(
    name for field in FIELDS for names in field.xmp for name in names.split()
)
