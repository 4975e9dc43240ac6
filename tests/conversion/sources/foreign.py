"""Region features in the layouts that others publish, written from the same sample images."""

import base64
import pickle

import h5py
import lmdb
import numpy as np


def shares(image):
    return image.boxes / np.array([image.width, image.height] * 2, np.float32)


def read(source):
    """{image id: (features, boxes, size)}, read in two parts by a pickled copy, as another process would."""
    reported = []
    index = source.index(lambda step, done, total: reported.append((done, total)))
    assert reported and all(0 <= done <= total == source.bytes for done, total in reported)
    copy = pickle.loads(pickle.dumps(source))
    half = len(index.image_id) // 2
    regions = [*copy.images(index[:half]), *copy.images(index[half:])]
    assert [len(image.features) for image in regions] == index.num_boxes.tolist()
    assert {image.features.shape[1] for image in regions} == {index.region_width}
    numbers = index.image_id.tolist()
    return {
        number: (image.features, image.boxes, tuple(size))
        for number, image, size in zip(numbers, regions, index.size.tolist(), strict=True)
    }


def assert_reads(source, images, sizes=True):
    content = read(source)
    assert sorted(content) == sorted(int(image.id.rpartition("_")[2]) for image in images)
    for image in images:
        features, boxes, size = content[int(image.id.rpartition("_")[2])]
        np.testing.assert_array_equal(features, image.features)
        np.testing.assert_allclose(boxes, shares(image), rtol=1e-6)
        assert boxes.dtype == np.float32
        assert size == ((image.width, image.height) if sizes else (0, 0))


def write_npz(folder, images, transposed=False, save=np.savez_compressed, name="{}.npz"):
    """bottom-up-attention.pytorch's, with its pickled `info`; openvqa's has the features transposed."""
    for image in images:
        path = folder / name.format(image.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(
            path,
            x=image.features.T if transposed else image.features,
            bbox=image.boxes,
            num_bbox=len(image.boxes),
            image_h=image.height,
            image_w=image.width,
            info={"image_id": image.id, "objects_id": np.arange(3)},
        )
    return folder


def mmf_info(image):
    n = len(image.boxes)
    return {
        "bbox": image.boxes,
        "num_boxes": n,
        "objects": np.arange(n),
        "cls_prob": np.ones((n, 9), np.float32),
        "image_width": image.width,
        "image_height": image.height,
    }


def write_mmf(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        np.save(folder / f"{image.id}.npy", image.features)
        np.save(folder / f"{image.id}_info.npy", mmf_info(image))
    return folder


def mmf_entry(image):
    return {"feature_path": image.id, "features": image.features, **mmf_info(image)}


def vilbert_entry(image):
    return {
        "image_id": image.id,
        "image_h": image.height,
        "image_w": image.width,
        "num_boxes": len(image.boxes),
        "boxes": image.boxes,
        "features": image.features,
    }


def base64_entry(image):
    """ViLBERT's, made from the lines of a TSV: everything is bytes or text."""
    entry = vilbert_entry(image)
    arrays = {name: base64.b64encode(entry[name].tobytes()) for name in ("boxes", "features")}
    return {name: str(value) for name, value in entry.items() if name not in arrays} | arrays


def write_lmdb(path, images, entry=mmf_entry, keys=None, key="{}", subdir=True, protocol=4):
    with lmdb.open(str(path), map_size=1 << 26, subdir=subdir) as environment, environment.begin(write=True) as entries:
        names = [key.format(image.id).encode() for image in images]
        for name, image in zip(names, images, strict=True):
            entries.put(name, pickle.dumps(entry(image), protocol))
        entries.put(b"keys", pickle.dumps(names if keys is None else keys, protocol))
    return path


def spatial(image):
    """The six columns of bottom-up-attention-vqa: corners, width and height, as shares."""
    corners = shares(image)
    return np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1)


def write_rows(path, rows):
    companion = path.with_name(f"{path.stem}_imgid2idx.pkl")
    companion.write_bytes(pickle.dumps(rows, 2))


def write_hdf5(path, images, spare=0, **storage):
    """bottom-up-attention-vqa's; `spare` rows at the end belong to no image."""
    with h5py.File(path, "w") as file:
        for name, rows in (
            ("image_features", [image.features for image in images]),
            ("image_bb", [image.boxes for image in images]),
            ("spatial_features", [spatial(image) for image in images]),
        ):
            rows = np.stack([*rows, *[np.zeros_like(rows[0])] * spare])
            file.create_dataset(name, data=rows, **storage)
    write_rows(path, {int(image.id): row for row, image in enumerate(images)})
    return path


def write_ban(path, images, **storage):
    """BAN's: the regions of all images in one table."""
    ends = np.cumsum([len(image.boxes) for image in images])
    with h5py.File(path, "w") as file:
        for name, rows in (
            ("image_features", [image.features for image in images]),
            ("image_bb", [image.boxes for image in images]),
            ("spatial_features", [spatial(image) for image in images]),
        ):
            file.create_dataset(name, data=np.concatenate(rows), **storage)
        file["pos_boxes"] = np.stack([ends - [len(image.boxes) for image in images], ends], 1).astype(np.int32)
    write_rows(path, {int(image.id): row for row, image in enumerate(images)})
    return path


def write_own(path, images, dtype="float32", **storage):
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=np.stack([image.features for image in images]).astype(dtype), **storage)
        file.create_dataset("boxes", data=np.stack([shares(image) for image in images]), **storage)
        file["image_id"] = np.array([int(image.id) for image in images])
        file["size"] = np.array([(image.width, image.height) for image in images])
    return path
